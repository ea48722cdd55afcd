"""Writes the weights of a model in safetensors: one file, or several with an index.

Several files are what Transformers writes of a model above 5 GB: `model-00001-of-00003.safetensors`
and so on, and `model.safetensors.index.json`, which says where each tensor is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from rsft_jax.interop.formats.text_files import write_json
from rsft_jax.interop.model_folder import INDEX, WEIGHTS

DTYPES: dict[str, Any] = {
    "float32": np.float32,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
}
"""Of weights as they are written, by name."""

MAX_SHARD_BYTES = 5_000_000_000
"""The largest file that is written, as in Transformers."""


def write_shards(
    folder: Path, tensors: Mapping[str, np.ndarray], dtype: str, max_bytes: int
) -> None:
    """Writes tensors in a dtype, in as many files as it takes.

    Args:
      folder: an empty folder.
      tensors: contiguous, by their names.
      dtype: a key of `DTYPES`.
      max_bytes: of tensors in one file; a larger tensor has a file of its own.

    Raises:
      ValueError: no such dtype, or a number that is finite is not in it.
    """
    from safetensors.numpy import save_file

    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    sizes = {name: tensor.size for name, tensor in tensors.items()}
    itemsize = np.dtype(DTYPES[dtype]).itemsize
    groups = _groups({name: size * itemsize for name, size in sizes.items()}, max_bytes)
    files = [WEIGHTS]
    if len(groups) > 1:
        files = [f"model-{i:05d}-of-{len(groups):05d}.safetensors" for i in _from_one(groups)]
    for file, names in zip(files, groups):  # cast one file at a time: memory for no more of them
        part = {name: _cast(name, tensors[name], dtype) for name in names}
        save_file(part, folder / file, metadata={"format": "pt"})
    if len(groups) > 1:
        where = {name: file for file, names in zip(files, groups) for name in names}
        total = {"total_parameters": sum(sizes.values()), "total_size": 0}
        total["total_size"] = total["total_parameters"] * itemsize
        write_json(folder / INDEX, {"metadata": total, "weight_map": where})


def _from_one(groups: list[list[str]]) -> range:
    return range(1, len(groups) + 1)


def _groups(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    """Names in their order, in groups of at most so many bytes.

    >>> _groups({"a": 3, "b": 2, "c": 9, "d": 1}, 5)
    [['a', 'b'], ['c'], ['d']]
    """
    if max_bytes < 1:
        raise ValueError(f"max_shard_bytes must be at least 1, got {max_bytes}")
    groups: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not groups or size > room:
            groups.append([])
            room = max_bytes
        groups[-1].append(name)
        room -= size
    return groups


def _cast(name: str, tensor: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # told below
        cast = tensor.astype(DTYPES[dtype])
    lost = np.isfinite(tensor) & ~np.isfinite(cast)
    if lost.any():
        largest = np.abs(tensor[lost]).max()
        raise ValueError(f"{name}: {largest:g} is beyond what {dtype} holds; take another dtype")
    return cast
