"""Reads safetensors files: the header is checked first, the tensors are memory-mapped.

The format is described at https://github.com/huggingface/safetensors (README, "Format").
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from rsft_jax.interop.formats.files import forget, open_weights

# Far above the header of any real file (a thousand tensors take 100 kB), far below what would
# let its JSON fill the memory.
MAX_HEADER_BYTES = 1 << 22

_KINDS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


class SafetensorsFile(Mapping[str, np.ndarray]):
    """A checked safetensors file: a mapping from names to float tensors.

    Raises:
      ValueError: the file is truncated or its header cannot be right.
      FileNotFoundError: there is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = open_weights(path)
        self._tensors = self._read_header()

    def __getitem__(self, name: str) -> np.ndarray:
        info = self._tensors[name]
        return self._bytes[info.start : info.end].view(info.kind).reshape(info.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def forget(self, name: str) -> None:
        """Gives the memory of a tensor that has been read back; it may be read again."""
        info = self._tensors[name]
        forget(self._bytes, info.start, info.end)

    def _fail(self, field: str, reason: str) -> NoReturn:
        raise ValueError(f"{self.path}: {field:.80}: {reason}")

    def _read_header(self) -> dict[str, "_Info"]:
        size = len(self._bytes)
        length = int.from_bytes(self._bytes[:8].tobytes(), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            self._fail("header", f"its {length} bytes do not fit into {size} bytes")
        try:
            header = json.loads(
                self._bytes[8 : 8 + length].tobytes(), object_pairs_hook=_without_duplicates
            )
        except (ValueError, RecursionError) as error:
            self._fail("header", f"cannot be read: {error}")
        if not isinstance(header, dict):
            self._fail("header", "must be a JSON object")
        header.pop("__metadata__", None)
        tensors = {name: self._read_info(name, entry) for name, entry in header.items()}
        # The tensors must cover the rest of the file, each byte once.
        end = 0
        for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
            if info.start != end:
                self._fail(name, f"starts at byte {info.start}, but the one before ends at {end}")
            end = info.end
        if end != size - 8 - length:
            self._fail("header", f"describes {end} bytes, but {size - 8 - length} follow")
        shift = 8 + length
        return {
            name: dataclasses.replace(info, start=info.start + shift, end=info.end + shift)
            for name, info in tensors.items()
        }

    def _read_info(self, name: str, entry: Any) -> "_Info":
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            self._fail(name, "must have a dtype, a shape and data_offsets")
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(kind, str) or kind not in _KINDS:
            self._fail(name, f"its dtype must be one of {', '.join(_KINDS)}, got {kind!r:.80}")
        if not (_naturals(shape) and len(shape) <= 8 and _naturals(offsets) and len(offsets) == 2):
            self._fail(name, "its shape and data_offsets must be short lists of integers")
        start, end = offsets
        needed = math.prod(shape) * np.dtype(_KINDS[kind]).itemsize
        if end - start != needed:
            self._fail(name, f"its shape needs {needed} bytes, its offsets give {end - start}")
        return _Info(tuple(shape), np.dtype(_KINDS[kind]), start, end)


@dataclasses.dataclass(frozen=True)
class _Info:
    shape: tuple[int, ...]
    kind: np.dtype
    start: int
    end: int


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(i) is int and 0 <= i < 1 << 63 for i in value)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result
