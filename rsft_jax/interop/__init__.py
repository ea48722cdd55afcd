"""Other systems' formats: GGUF files, Hugging Face directories of language models and of sequence
classifiers, adapters of PEFT, and SavedModels."""

from rsft_jax.interop.classifier import (
    SequenceClassifier,
    load_classifier,
    new_classifier,
    save_classifier,
)
from rsft_jax.interop.gguf import read_gguf
from rsft_jax.interop.gguf_adapter import write_gguf_adapter
from rsft_jax.interop.gguf_export import write_gguf
from rsft_jax.interop.huggingface import read_huggingface, write_huggingface
from rsft_jax.interop.nnx import NnxApply, NnxPolicy, nnx_policy
from rsft_jax.interop.peft import join_lora, largest_change, load_adapter, save_adapter
from rsft_jax.interop.pretrained import (
    Pretrained,
    load_pretrained,
    pretrained_dtype,
    save_pretrained,
)
from rsft_jax.interop.tensorflow import save_litert, save_tensorflow

__all__ = [
    "NnxApply",
    "NnxPolicy",
    "Pretrained",
    "SequenceClassifier",
    "join_lora",
    "largest_change",
    "load_adapter",
    "load_classifier",
    "load_pretrained",
    "new_classifier",
    "nnx_policy",
    "pretrained_dtype",
    "read_gguf",
    "read_huggingface",
    "save_adapter",
    "save_classifier",
    "save_litert",
    "save_pretrained",
    "save_tensorflow",
    "write_gguf",
    "write_gguf_adapter",
    "write_huggingface",
]
