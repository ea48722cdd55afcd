"""GGUF files as bytes: checked header values and float32 tensors, of no model in particular.

A GGUF file is a header of counted, length-prefixed values followed by tensors. The numbers in the
header are not trusted: everything is checked against the size of the file before memory is
allocated for it, lists of strings are decoded on demand only, and the file is memory-mapped, so
that refusing a hostile file costs little more than reading its header.

The format is described at https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Blocks of
quantised weights are expanded with the `gguf` package.
"""

import dataclasses
import math
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from rsft_jax.interop.formats.files import open_weights

MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 16
MAX_STRINGS = 1 << 21  # in all lists together
MAX_KEY_BYTES = 1 << 16
MAX_ALIGNMENT = 1 << 20
_MAX_DIMENSIONS = 4

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i"}
_SCALARS |= {6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _LIST = 8, 9


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies.

    Attributes:
      shape: rows first, as in NumPy (GGUF writes it the other way round).
      kind: number of the GGML type.
      offset: of the first byte, from the start of the file.
      num_bytes: length in the file.
    """

    shape: tuple[int, ...]
    kind: int
    offset: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class _Field:
    """Where a header value lies; `kind` is that of a list's items for a list."""

    kind: int
    offset: int
    length: int | None  # None: a single value


class GGUFFile:
    """A checked GGUF file: a mapping of header values and of tensors.

    Args:
      path: the file.

    Raises:
      ValueError: the file is no GGUF file, is truncated, or holds a number that cannot be right;
        the message names the file, the field and the reason.
      FileNotFoundError: there is no such file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._bytes: Any = open_weights(self.path)
        self._strings = 0
        self._fields: dict[str, _Field] = {}
        self.tensors: Mapping[str, TensorInfo] = {}
        self._read_header()

    def __iter__(self) -> Iterator[str]:
        """Names of the header values."""
        return iter(self._fields)

    def get(self, key: str, default: Any = None) -> Any:
        """The header value of a key: a number, a string, or a list of either."""
        field = self._fields.get(key)
        if field is None:
            return default
        if field.length is None:
            return self._value(key, field.kind, field.offset)[0]
        if field.kind != _STRING:
            code = np.dtype(_SCALARS[field.kind])
            end = field.offset + field.length * code.itemsize
            return self._bytes[field.offset : end].view(code).tolist()
        values, offset = [], field.offset
        for _ in range(field.length):
            value, offset = self._value(key, _STRING, offset)
            values.append(value)
        return values

    def length(self, key: str) -> int:
        """Number of items of a list, 0 for a key that is missing or no list."""
        field = self._fields.get(key)
        return 0 if field is None else field.length or 0

    def require(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of a key, which must be present (without a default) and of a type."""
        value = self.get(key, default)
        if value is None:
            self.fail(key, "is missing")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.fail(key, f"must be of the type {kind.__name__}, got {value!r:.80}")
        return value

    def info(self, name: str) -> TensorInfo:
        """Where a tensor lies; a ValueError if it is missing."""
        if name not in self.tensors:
            self.fail(name, "this tensor is missing")
        return self.tensors[name]

    def tensor(self, name: str) -> np.ndarray:
        """A tensor in float32.

        Raises:
          ValueError: there is no such tensor, or its encoding is not supported.
        """
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize, quant_shape_to_byte_shape

        info = self.info(name)
        data = self._bytes[info.offset : info.offset + info.num_bytes]
        kind = GGMLQuantizationType(info.kind)
        if kind == GGMLQuantizationType.F64:
            return data.view("<f8").astype(np.float32).reshape(info.shape)
        if kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
            number = "<f4" if kind == GGMLQuantizationType.F32 else "<f2"
            return data.view(number).astype(np.float32).reshape(info.shape)
        try:
            rows = data.reshape(quant_shape_to_byte_shape(info.shape, kind))
            return dequantize(rows, kind).reshape(info.shape)
        except NotImplementedError:
            self.fail(name, f"the encoding {kind.name} is not supported")

    def fail(self, field: str, reason: str) -> NoReturn:
        """Raises a ValueError about a header value or a tensor."""
        raise ValueError(f"{self.path}: {field}: {reason}")

    def _read_header(self) -> None:
        size = len(self._bytes)
        if size < 24 or self._bytes[:4].tobytes() != b"GGUF":
            self.fail("magic", "this is no GGUF file")
        version, num_tensors, num_keys = struct.unpack_from("<IQQ", self._bytes, 4)
        if version not in (2, 3):
            order = " (big-endian files are not supported)" if version % (1 << 16) == 0 else ""
            self.fail("version", f"must be 2 or 3, got {version}{order}")
        # A key takes at least 13 bytes and a tensor 24, which bounds both counts by the file.
        if num_keys > min(MAX_KEYS, (size - 24) // 13):
            self.fail("metadata_kv_count", f"{num_keys} keys do not fit into {size} bytes")
        if num_tensors > min(MAX_TENSORS, (size - 24) // 24):
            self.fail("tensor_count", f"{num_tensors} tensors do not fit into {size} bytes")
        offset = 24
        for i in range(num_keys):
            key, offset = self._key(f"key {i}", offset)
            if key in self._fields:
                self.fail(key, "occurs twice")
            self._fields[key], offset = self._skip(key, offset)
        self._read_tensors(num_tensors, offset)

    def _read_tensors(self, count: int, offset: int) -> None:
        """Reads the descriptions of tensors, and checks that they lie apart inside the file."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        size = len(self._bytes)
        alignment = self.get("general.alignment", 32)
        if (
            not isinstance(alignment, int)
            or not 1 <= alignment <= MAX_ALIGNMENT
            or alignment & (alignment - 1)
        ):
            self.fail(
                "general.alignment",
                f"must be a power of two in [1, {MAX_ALIGNMENT}], got {alignment!r:.80}",
            )
        described: dict[str, TensorInfo] = {}
        for i in range(count):
            name, offset = self._key(f"tensor {i}", offset)
            rank, offset = self._number(name, "<I", offset)
            if not 1 <= rank <= _MAX_DIMENSIONS:
                self.fail(name, f"must have 1 to {_MAX_DIMENSIONS} dimensions, got {rank}")
            shape = []
            for _ in range(rank):
                width, offset = self._number(name, "<Q", offset)
                shape.insert(0, width)
            kind, offset = self._number(name, "<I", offset)
            start, offset = self._number(name, "<Q", offset)
            if kind not in iter(GGMLQuantizationType):
                self.fail(name, f"has the unknown type {kind}")
            if name in described:
                self.fail(name, "this tensor occurs twice")
            if start % alignment:
                self.fail(name, f"its offset {start} is no multiple of {alignment}")
            block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
            if 0 in shape or shape[-1] % block:
                self.fail(name, f"the shape {shape} does not divide into blocks of {block}")
            num_bytes = math.prod(shape) // block * block_bytes
            described[name] = TensorInfo(tuple(shape), kind, start, num_bytes)
        data = -(-offset // alignment) * alignment
        end = data
        for name, info in sorted(described.items(), key=lambda item: item[1].offset):
            start = data + info.offset
            if start + info.num_bytes > size:
                self.fail(
                    name,
                    f"shape {list(info.shape)} at byte {start} needs {info.num_bytes} bytes, but "
                    f"the file ends at byte {size}; is it truncated?",
                )
            if start < end:
                self.fail(name, "overlaps the tensor before it")
            end = start + info.num_bytes
            described[name] = dataclasses.replace(info, offset=start)
        self.tensors = described

    def _number(self, field: str, code: str, offset: int) -> tuple[Any, int]:
        end = offset + struct.calcsize(code)
        if end > len(self._bytes):
            self.fail(field, f"the file ends inside of it, at byte {len(self._bytes)}")
        return struct.unpack_from(code, self._bytes, offset)[0], end

    def _string_end(self, field: str, offset: int) -> tuple[int, int]:
        length, start = self._number(field, "<Q", offset)
        if length > len(self._bytes) - start:
            self.fail(field, f"a string of {length} bytes reaches past the end of the file")
        return start, start + length

    def _value(self, field: str, kind: int, offset: int) -> tuple[Any, int]:
        if kind != _STRING:
            return self._number(field, _SCALARS[kind], offset)
        start, end = self._string_end(field, offset)
        try:
            return self._bytes[start:end].tobytes().decode("utf-8"), end
        except UnicodeDecodeError:
            self.fail(field, "holds a string that is not UTF-8")

    def _key(self, field: str, offset: int) -> tuple[str, int]:
        start, end = self._string_end(field, offset)
        if end - start > MAX_KEY_BYTES:
            self.fail(field, f"its name has {end - start} bytes, more than {MAX_KEY_BYTES}")
        return self._value(field, _STRING, offset)

    def _skip(self, key: str, offset: int) -> tuple[_Field, int]:
        """Checks one header value and finds its end, without keeping it."""
        kind, offset = self._number(key, "<I", offset)
        length = None
        if kind == _LIST:
            kind, offset = self._number(key, "<I", offset)
            if kind == _LIST:
                self.fail(key, "lists inside of lists are not supported")
            length, offset = self._number(key, "<Q", offset)
        if kind != _STRING and kind not in _SCALARS:
            self.fail(key, f"has the unknown type {kind}")
        field = _Field(kind, offset, length)
        least = 8 if kind == _STRING else struct.calcsize(_SCALARS[kind])
        items = 1 if length is None else length
        if items * least > len(self._bytes) - offset:
            self.fail(key, f"{items} items reach past the end of the file")
        if kind != _STRING:
            return field, offset + items * least
        self._strings += items
        if self._strings > MAX_STRINGS:
            self.fail(key, f"the file has more than {MAX_STRINGS} strings")
        for _ in range(items):
            _, offset = self._string_end(key, offset)
        return field, offset
