"""Opens files of weights: only formats that hold numbers, only regular files, memory-mapped."""

from pathlib import Path

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
