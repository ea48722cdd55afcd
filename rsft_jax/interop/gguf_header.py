"""What a GGUF header says of a model: what it is, and its sizes."""

from pathlib import Path
from typing import Any

from rsft_jax.interop.weights import Stated, check_said, named_family
from rsft_jax.models.config import TransformerConfig
from rsft_jax.models.families import Family

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


def header_of(config: TransformerConfig) -> tuple[Family, dict[str, Any]]:
    """The family of a model, and its sizes by their keys.

    Raises:
      ValueError: no GGUF file can say what the model computes; the message says what that is.

    Example:
      >>> sizes = {"d_model": 8, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "d_ff": 16}
      >>> family, header = header_of(TransformerConfig(vocab_size=9, num_layers=1, **sizes))
      >>> family.name, header["llama.attention.head_count_kv"]
      ('Llama', 1)
    """
    family = named_family(config)
    if family.gguf_prefix is None or family.gguf_of is None:
        raise ValueError(f"a {family.name} model is not written as GGUF")
    sizes = family.gguf_of(config)
    check_said(config, family, family.sizes_of_gguf(Stated(sizes)), but_for={"tie_embeddings"})
    return family, {f"{family.gguf_prefix}.{key}": value for key, value in sizes.items()}
