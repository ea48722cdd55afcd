"""A tiny random Llama: sizes, parameters, byte-level tokenizer, and the same as a GGUF file."""

from pathlib import Path

import gguf
import numpy as np

from rsft_jax.data.tokenizer import Tokenizer, byte_alphabet
from rsft_jax.interop.weights import params_from_tensors
from rsft_jax.models.config import TransformerConfig
from rsft_jax.models.families.llama import FAMILY as LLAMA

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_GGUF_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def tiny_config(**changes) -> TransformerConfig:
    """Two layers of width 64 over 256 bytes and three special tokens."""
    sizes = {
        "vocab_size": 256 + len(SPECIAL_TOKENS),
        "d_model": 64,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 16,
        "d_ff": 96,
        "max_length": 256,
    }
    return TransformerConfig(**(sizes | changes))


def tiny_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under their Hugging Face names, `[out, in]`."""
    c = tiny_config()
    rng = np.random.default_rng(seed)
    kv_width = c.num_kv_heads * c.head_dim
    layer = {
        "input_layernorm": (c.d_model,),
        "self_attn.q_proj": (c.num_heads * c.head_dim, c.d_model),
        "self_attn.k_proj": (kv_width, c.d_model),
        "self_attn.v_proj": (kv_width, c.d_model),
        "self_attn.o_proj": (c.d_model, c.num_heads * c.head_dim),
        "post_attention_layernorm": (c.d_model,),
        "mlp.gate_proj": (c.d_ff, c.d_model),
        "mlp.up_proj": (c.d_ff, c.d_model),
        "mlp.down_proj": (c.d_model, c.d_ff),
    }
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens": (c.vocab_size, c.d_model)}
    for i in range(c.num_layers):
        shapes |= {f"layers.{i}.{name}": shape for name, shape in layer.items()}
    shapes["norm"] = (c.d_model,)
    return {
        f"model.{name}.weight": (
            1.0 + 0.1 * rng.standard_normal(shape)
            if len(shape) == 1
            else rng.standard_normal(shape) / np.sqrt(shape[1])
        ).astype(np.float32)
        for name, shape in shapes.items()
    }


def tiny_params(seed: int = 0):
    """Random parameters in the unrolled layout."""
    return params_from_tensors(Path("tiny"), LLAMA, tiny_config(), tiny_tensors(seed))


def tiny_tokenizer() -> Tokenizer:
    """One token a byte, and ChatML."""
    return Tokenizer.from_bpe(
        [*byte_alphabet(), *SPECIAL_TOKENS],
        [],
        special_ids=range(256, 259),
        bos_id=257,
        eos_id=258,
        chat_template=CHATML,
    )


def write_tiny_gguf(
    path: Path, seed: int = 0, *, quantized: bool = False, values: dict | None = None
) -> Path:
    """Writes the tiny model as GGUF with the `gguf` package.

    Args:
      path: the file.
      seed: of the weights.
      quantized: whether the embedding is Q8_0 and the matrices Q4_1, else all is F32.
      values: header values to add or replace, by key: integers, strings, or lists of them.
    """
    c = tiny_config()
    writer = gguf.GGUFWriter(path, "llama")
    tokens = [*byte_alphabet(), *SPECIAL_TOKENS]
    header = {
        "llama.block_count": c.num_layers,
        "llama.context_length": c.max_length,
        "llama.embedding_length": c.d_model,
        "llama.feed_forward_length": c.d_ff,
        "llama.attention.head_count": c.num_heads,
        "llama.attention.head_count_kv": c.num_kv_heads,
        "llama.rope.freq_base": c.kinds[0].rope.base,
        "llama.attention.layer_norm_rms_epsilon": c.norm_eps,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 256 + [3] * len(SPECIAL_TOKENS),
        "tokenizer.ggml.merges": ["a b", "ab c"],
        "tokenizer.ggml.bos_token_id": 257,
        "tokenizer.ggml.eos_token_id": 258,
        "tokenizer.chat_template": CHATML,
    } | (values or {})
    # The merges need their results in the vocabulary; two rare bytes give up their places.
    header["tokenizer.ggml.tokens"] = [
        {byte_alphabet()[254]: "ab", byte_alphabet()[255]: "abc"}.get(t, t)
        for t in header["tokenizer.ggml.tokens"]
    ]
    for key, value in header.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_array(key, value)
    for name, tensor in tiny_tensors(seed).items():
        writer.add_tensor(*_gguf_tensor(name, tensor, quantized))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_tensor(name: str, tensor: np.ndarray, quantized: bool):
    c = tiny_config()
    middle = name.removeprefix("model.").removesuffix(".weight")
    if middle.startswith("layers."):
        _, i, part = middle.split(".", 2)
        new = f"blk.{i}.{_GGUF_LAYER_NAMES[part]}.weight"
    else:
        new = {"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}[middle]
    for part, heads in (("q_proj", c.num_heads), ("k_proj", c.num_kv_heads)):
        if part in name:  # llama.cpp interleaves the two halves of each head
            tensor = np.concatenate(
                [
                    np.stack([head[i % 2 * (len(head) // 2) + i // 2] for i in range(len(head))])
                    for head in np.split(tensor, heads)
                ]
            )
    if not quantized or tensor.ndim == 1:
        return new, np.ascontiguousarray(tensor)
    kind = gguf.GGMLQuantizationType.Q8_0 if "embed" in name else gguf.GGMLQuantizationType.Q4_1
    return new, gguf.quants.quantize(tensor, kind), None, kind
