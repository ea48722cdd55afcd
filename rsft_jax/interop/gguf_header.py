"""What a GGUF header says of a model: what it is, and its sizes."""

from pathlib import Path
from typing import Any

from rsft_jax.models.transformer import TransformerConfig

# `general.file_type`: llama.cpp's number for what most matrices are stored as (`LLAMA_FTYPE_...`).
_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}
_QUANTIZATION_VERSION = 2  # of the blocks of q8_0


def general_values(
    path: Path, *, architecture: str, kind: str, dtype: str, name: str | None
) -> dict[str, Any]:
    """The keys that every file has.

    Args:
      path: the file, whose name is the model's by default.
      architecture: the family's name in llama.cpp.
      kind: "model" or "adapter".
      dtype: of the matrices.
      name: what people call the model, or None.
    """
    return {
        "general.architecture": architecture,
        "general.type": kind,
        "general.name": path.stem if name is None else name,
        "general.file_type": _FILE_TYPES[dtype],
        "general.quantization_version": _QUANTIZATION_VERSION,
    }


def gguf_of(config: TransformerConfig) -> dict[str, Any]:
    """The sizes of a Llama by their keys without the family's prefix: inverts `sizes_of_gguf`.

    Example:
      >>> sizes = {"d_model": 8, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "d_ff": 16}
      >>> config = TransformerConfig(vocab_size=9, num_layers=1, **sizes)
      >>> gguf_of(config)["attention.head_count_kv"]
      1
    """
    return {
        "vocab_size": config.vocab_size,
        "block_count": config.num_layers,
        "context_length": config.max_length,
        "embedding_length": config.d_model,
        "feed_forward_length": config.d_ff,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.norm_eps),
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": float(config.rope_base),
    }
