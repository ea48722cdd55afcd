"""How GGUF keeps the arrays of a model: the order of their rows, and their encoding."""

import numpy as np

from rsft_jax.interop.formats.gguf_writer import Tensor
from rsft_jax.models.config import TransformerConfig
from rsft_jax.models.families import Family

_BLOCK = 32  # numbers in a block of q8_0


def unpermute(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Puts the rows of a query or key projection into the "rotate half" order.

    GGUF's Llama weights interleave the two numbers that a rotary position turns together, rows
    (2i, 2i + 1) of each head; here, as in Hugging Face's models, they are rows (i, i + C/2).

    Args:
      weight: `[heads C, ...]`.
      num_heads: how many heads the rows belong to.
    """
    return _swap_rows(weight, num_heads, (-1, 2))


def permute(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Puts the rows of a query or key projection into rotary pairs: the inverse of `unpermute`.

    >>> permute(np.arange(4), num_heads=1).tolist()
    [0, 2, 1, 3]
    """
    return _swap_rows(weight, num_heads, (2, -1))


def heads_of(family: Family, config: TransformerConfig, name: str) -> int | None:
    """How many heads the rows of a weight belong to if GGUF keeps them in rotary pairs, else None.

    Args:
      family: its tables.
      config: the model's sizes.
      name: of the weight in Hugging Face's checkpoint.
    """
    for ending, heads in family.interleaved.items():
        if name.endswith(ending):
            return getattr(config, heads)
    return None


def stored(array: np.ndarray, dtype: str, *, norm: bool = False) -> Tensor:
    """An array in the encoding that llama.cpp's converter would choose for it.

    llama.cpp computes with vectors and norms in float32 only. Rows that do not divide into blocks
    become f16.

    Args:
      array: as it lies in the file.
      dtype: asked for; one of `rsft_jax.interop.formats.gguf_writer.ENCODINGS`.
      norm: whether it is the scale of a norm.
    """
    if array.ndim < 2 or norm:
        return Tensor(array, "f32")
    if dtype == "q8_0" and array.shape[-1] % _BLOCK:
        return Tensor(array, "f16")
    return Tensor(array, dtype)


def _swap_rows(weight: np.ndarray, num_heads: int, halves: tuple[int, int]) -> np.ndarray:
    rows = len(weight)
    if rows % (2 * num_heads):
        raise ValueError(f"{rows} rows do not divide into {num_heads} heads of even width")
    return (
        weight.reshape(num_heads, *halves, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )
