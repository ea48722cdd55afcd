"""Writes GGUF files as bytes, of no model in particular; `formats.gguf` reads them.

The format is described at https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Weights are
rounded with the `gguf` package. (Its writer refuses empty lists, which a tokenizer without merges
has, and keeps every tensor in memory in its final form.)
"""

import os
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

Value = bool | int | float | str | list[int] | list[str]
"""A header value; an integer is stored in 32 bits, unsigned by itself and signed in a list."""

ENCODINGS = ("f32", "f16", "bf16", "q8_0")
"""How numbers may be stored.

f32   as they are
f16   half precision; at most 65,504
bf16  the upper half of float32
q8_0  blocks of 32 integers of 8 bits with a scale in half precision
"""

_ALIGNMENT = 32
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _LIST = 4, 5, 6, 7, 8, 9
# The largest finite number that an encoding holds: the scale of a block is its largest over 127.
_LARGEST = {"f16": 65_504.0, "q8_0": 65_504.0 * 127}


class Tensor(NamedTuple):
    """An array and how it is stored.

    Attributes:
      array: of any float type, rows first.
      encoding: one of `ENCODINGS`; blocks lie along the last axis.
    """

    array: np.ndarray
    encoding: str


def write_gguf_file(
    path: str | os.PathLike[str], values: Mapping[str, Value], tensors: Mapping[str, Tensor]
) -> None:
    """Writes a file of header values and tensors, whole or not at all.

    The tensors are encoded one after the other, so that one of them at a time is in memory twice.

    Args:
      path: the file; the folder is created if needed, an older file is replaced.
      values: by key, in the order of the file.
      tensors: by name, in the order of the file.

    Raises:
      ValueError: a number is too large for the encoding of its tensor, or the path is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: this is a folder; a GGUF file needs a name of its own")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=path.parent) as scratch:
        new = Path(scratch) / "model.gguf"
        with new.open("wb") as file:
            _write(file, values, tensors)
        new.replace(path)


def _write(file: BinaryIO, values: Mapping[str, Value], tensors: Mapping[str, Tensor]) -> None:
    header = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(values))]
    header += [_string(key) + _typed(key, value) for key, value in values.items()]
    start = 0
    for name, tensor in tensors.items():
        kind, num_bytes = _stored(tensor)
        shape = tensor.array.shape[::-1]  # GGUF names the width of a row first
        header.append(_string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        header.append(struct.pack("<IQ", kind, start))
        start += -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
    file.write(b"".join(header))
    _pad(file)
    for name, tensor in tensors.items():
        file.write(encode(name, tensor))
        _pad(file)


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % _ALIGNMENT))


def _string(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _typed(key: str, value: Any) -> bytes:
    """The number of a value's type, and the value."""
    match value:
        case bool():
            return struct.pack("<I?", _BOOL, value)
        case int():
            if not 0 <= value < 1 << 32:
                raise ValueError(f"{key}: must be in [0, 2**32), got {value}")
            return struct.pack("<II", _UINT32, value)
        case float():
            return struct.pack("<If", _FLOAT32, value)
        case str():
            return struct.pack("<I", _STRING) + _string(value)
        case [int(), *_]:
            return struct.pack(f"<IIQ{len(value)}i", _LIST, _INT32, len(value), *value)
        case list():
            items = b"".join(map(_string, value))
            return struct.pack("<IIQ", _LIST, _STRING, len(value)) + items
        case _:
            raise TypeError(f"{key}: GGUF has no form for {value!r:.80}")


def _stored(tensor: Tensor) -> tuple[int, int]:
    """The number of the GGML type of a tensor, and its bytes in the file."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    kind = GGMLQuantizationType[tensor.encoding.upper()]
    block, block_bytes = GGML_QUANT_SIZES[kind]
    return kind.value, tensor.array.size // block * block_bytes


def encode(name: str, tensor: Tensor) -> bytes:
    """The bytes of a tensor in the file.

    Raises:
      ValueError: a number is too large for the encoding.
    """
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    array = np.ascontiguousarray(tensor.array, dtype="<f4")
    limit = _LARGEST.get(tensor.encoding, np.inf)
    if (largest := float(np.max(np.abs(array), initial=0.0))) > limit:
        raise ValueError(
            f"{name}: its largest number {largest:g} does not fit into {tensor.encoding}, which "
            f"ends at {limit:g}; bf16 and f32 hold it"
        )
    return quantize(array, GGMLQuantizationType[tensor.encoding.upper()]).tobytes()
