"""Arrays of a file as arrays of JAX: copied once, into memory that nobody else has.

`jnp.array(np.ascontiguousarray(tensor.T, np.float32))` holds a tensor three times while it is read,
and walks a transposed one against the cache. Here the numbers are converted and transposed on their
way into the memory that JAX then takes over.
"""

import math
from typing import Any

import jax
import numpy as np

from rsft_jax.types import Array

# JAX takes over memory on a CPU without a copy only where it begins at such an address.
_ALIGNMENT = 64
# A tile is converted into a buffer that stays in a core's cache, and transposed from there.
_TILE = 256
# Rows of the buffer begin in different sets of the cache, which rows of a power of two would not.
_PADDING = 16


def copied(array: np.ndarray, dtype: Any) -> np.ndarray:
    """A contiguous copy in another dtype, as `hand_over` wants it; it never shares memory.

    Args:
      array: of any strides; it may lie in a mapped file, or change later on.
      dtype: of the copy.

    Example:
      >>> copied(np.arange(6).reshape(2, 3).T, np.float32).tolist()
      [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    """
    made = _aligned(array.shape, np.dtype(dtype))
    if array.ndim == 2 and abs(array.strides[0]) < abs(array.strides[1]):
        _transpose(made, array.T)
    else:
        made[...] = array
    return made


def hand_over(made: np.ndarray) -> Array:
    """What `copied` has made as an array of JAX, which takes over its memory where it can.

    Args:
      made: nobody else may write to it from now on.

    Example:
      >>> hand_over(copied(np.ones(2), np.float32))
      Array([1., 1.], dtype=float32)
    """
    return jax.device_put(made, may_alias=True)


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _transpose(made: np.ndarray, source: np.ndarray) -> None:
    """Fills `[C, R]` with the transpose of `[R, C]`, a tile at a time."""
    buffer = np.empty((_TILE, _TILE + _PADDING), made.dtype)
    rows, columns = source.shape
    for i in range(0, rows, _TILE):
        for j in range(0, columns, _TILE):
            part = source[i : i + _TILE, j : j + _TILE]
            tile = buffer[: part.shape[0], : part.shape[1]]
            tile[...] = part
            made[j : j + _TILE, i : i + _TILE] = tile.T
