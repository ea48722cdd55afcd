"""Other systems' formats: GGUF files and Hugging Face directories."""

from rsft_jax.interop.gguf import read_gguf
from rsft_jax.interop.gguf_adapter import write_gguf_adapter
from rsft_jax.interop.gguf_export import write_gguf
from rsft_jax.interop.huggingface import read_huggingface, write_huggingface
from rsft_jax.interop.pretrained import Pretrained, load_pretrained, save_pretrained

__all__ = [
    "Pretrained",
    "load_pretrained",
    "read_gguf",
    "read_huggingface",
    "save_pretrained",
    "write_gguf",
    "write_gguf_adapter",
    "write_huggingface",
]
