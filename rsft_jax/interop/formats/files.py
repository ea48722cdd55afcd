"""Opens files of weights: only formats that hold numbers, only regular files, memory-mapped."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np

# Formats that unpickle, which runs code that the file brings.
_EXECUTING = frozenset(
    (".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth")
)


def refuse_pickles(path: Path) -> None:
    """Raises a ValueError for names of formats that can hold Python objects."""
    if path.suffix.lower() in _EXECUTING:
        raise ValueError(
            f"{path}: {path.suffix} files can hold pickled objects, which run code when they are "
            "read; convert the weights to safetensors or GGUF"
        )


def open_weights(path: Path) -> np.ndarray:
    """Maps a file into memory as bytes, to be read only.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is empty, no regular file, or of a format that can hold pickled objects.
    """
    refuse_pickles(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    if not path.is_file():
        raise ValueError(f"{path}: this is no regular file")
    if not path.stat().st_size:
        raise ValueError(f"{path}: this file is empty")
    return np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)


def forget(mapped: np.ndarray, start: int, end: int) -> None:
    """Gives the memory of bytes of a mapped file back; they are read anew where they are needed.

    A process otherwise holds every page of a file that it has looked at, beside what it has made of
    it. Nothing happens where the system has no such call.

    Args:
      mapped: what `open_weights` has returned.
      start, end: of bytes that have been read.
    """
    owner: Any = mapped
    while isinstance(owner, np.ndarray):
        owner = owner.base
    first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if first < last and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED, first, last - first)
