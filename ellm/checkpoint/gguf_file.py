"""The header of a GGUF file, read with every count checked against the file before it is trusted.

The package's own GGUFReader maps the whole file and believes its counts, so a damaged file makes it crash, hang or eat
memory.
Format: ggml/docs/gguf.md. Types, block sizes and dequantisation come from the package.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from ellm.checkpoint.gguf_metadata import Metadata
from ellm.checkpoint.json_file import check_file
from ellm.system.errors import InputError

_SCALARS = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT64: "<f8",
    GGUFValueType.BOOL: "?",
}
_HEADER_BYTES = 256 << 20  # more than any header: the largest vocabularies take some 20 MB
_STRING_BYTES = 16 << 20
_ITEMS = 4 << 20  # fields, tensors, or elements of one array
_NAME_LENGTH = 200
_DIMS = 4
_MAGIC = b"GGUF"


@dataclass(frozen=True)
class GGUFTensor:
    """One tensor as the header describes it; shape has the slowest dimension first."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    path: Path
    offset: int  # of its first byte in the file
    bytes: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one index of the first axis."""
        return self.bytes // self.shape[0]

    @property
    def end(self) -> int:
        """The byte behind its last one."""
        return self.offset + self.bytes


class GGUFFile(Metadata):
    """Metadata and tensors of a GGUF file (version 2 or 3, little-endian).

    Raises InputError, naming the file and the field, if the header is truncated, malformed or does not fit the file.
    """

    def __init__(self, path: Path):
        check_file(path, largest=None)
        super().__init__(path, {})
        self.tensors: dict[str, GGUFTensor] = {}
        check_file(path, largest=None)
        try:
            with open(path, "rb", buffering=1 << 20) as file:
                self._size = os.fstat(file.fileno()).st_size
                self._limit = min(self._size, _HEADER_BYTES)
                self._read_header(file)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error

    def _read_header(self, file: BinaryIO) -> None:
        magic = self._take(file, len(_MAGIC), "magic")
        if magic != _MAGIC:
            raise InputError(f"{self.path}: begins with {magic!r}, a GGUF file with {_MAGIC!r}")
        version = self._number(file, "<I", "version")
        if version and not version & 0xFFFF:  # GGUF has no other mark of its byte order
            raise InputError(
                f"{self.path}: is big-endian, ellm reads little-endian GGUF files: gguf-convert-endian converts it"
            )
        if version not in (2, 3):
            raise InputError(f"{self.path}: version is {version}, ellm reads GGUF versions 2 and 3")
        tensor_count = self._count(file, "tensor_count", 24)
        field_count = self._count(file, "metadata_kv_count", 13)
        for index in range(field_count):
            key = self._name(file, f"the key of metadata field {index}")
            if key in self.metadata:
                raise InputError(f"{self.path}: {key} occurs twice in the metadata")
            self.metadata[key] = self._value(file, key)
        entries = [self._tensor_entry(file, index) for index in range(tensor_count)]
        alignment = self.field("general.alignment", int, 32)
        if alignment <= 0 or alignment & (alignment - 1):
            raise InputError(f"{self.path}: general.alignment is {alignment}, must be a power of two")
        data = -(-file.tell() // alignment) * alignment
        for name, shape, number, offset in entries:
            if name in self.tensors:
                raise InputError(f"{self.path}: tensor {name} occurs twice")
            if offset % alignment:
                raise InputError(
                    f"{self.path}: offset of tensor {name} is {offset}, must be a multiple of general.alignment "
                    f"{alignment}"
                )
            self.tensors[name] = self._place(name, shape, number, data + offset)
        self._check_places()

    def _check_places(self) -> None:
        """No tensor lies in another or beyond the end of the file."""
        ordered = sorted(self.tensors.values(), key=lambda tensor: tensor.offset)
        for one, next_one in pairwise(ordered):
            if one.end > next_one.offset:
                raise InputError(
                    f"{self.path}: tensor {one.name} ends at byte {one.end}, within {next_one.name}, which begins at "
                    f"byte {next_one.offset}"
                )
        if ordered and ordered[-1].end > self._size:
            raise InputError(
                f"{self.path}: is truncated: it has {self._size} bytes, its tensors end at byte {ordered[-1].end}"
            )

    def _tensor_entry(self, file: BinaryIO, index: int) -> tuple[str, tuple[int, ...], int, int]:
        name = self._name(file, f"the name of tensor {index}")
        dims = self._number(file, "<I", f"n_dimensions of tensor {name}")
        if not 1 <= dims <= _DIMS:
            raise InputError(f"{self.path}: n_dimensions of tensor {name} is {dims}, must be 1 to {_DIMS}")
        shape = struct.unpack(f"<{dims}Q", self._take(file, 8 * dims, f"dimensions of tensor {name}"))[::-1]
        number = self._number(file, "<I", f"type of tensor {name}")
        return name, shape, number, self._number(file, "<Q", f"offset of tensor {name}")

    def _place(self, name: str, shape: tuple[int, ...], number: int, offset: int) -> GGUFTensor:
        try:
            dtype = GGMLQuantizationType(number)
        except ValueError:
            raise InputError(f"{self.path}: type of tensor {name} is {number}, which GGUF does not define") from None
        if 0 in shape:
            raise InputError(f"{self.path}: dimensions of tensor {name} are {list(shape)}, must be at least 1")
        block, block_bytes = GGML_QUANT_SIZES[dtype]
        if shape[-1] % block:
            raise InputError(
                f"{self.path}: tensor {name} has rows of {shape[-1]}, {dtype.name} needs blocks of {block}"
            )
        return GGUFTensor(name, shape, dtype.name, self.path, offset, math.prod(shape) // block * block_bytes)

    def _value(self, file: BinaryIO, key: str) -> Any:
        kind = self._kind(file, key)
        if kind != GGUFValueType.ARRAY:
            return self._string(file, key) if kind == GGUFValueType.STRING else self._array(file, kind, 1, key)[0]
        kind = self._kind(file, f"{key}[]")
        if kind == GGUFValueType.ARRAY:
            raise InputError(f"{self.path}: {key} is an array of arrays, which ellm does not read")
        if kind == GGUFValueType.STRING:
            return [self._string(file, key) for _ in range(self._count(file, f"length of {key}", 8))]
        return self._array(file, kind, self._count(file, f"length of {key}", np.dtype(_SCALARS[kind]).itemsize), key)

    def _kind(self, file: BinaryIO, what: str) -> GGUFValueType:
        number = self._number(file, "<I", f"type of {what}")
        try:
            return GGUFValueType(number)
        except ValueError:
            raise InputError(f"{self.path}: type of {what} is {number}, which GGUF does not define") from None

    def _array(self, file: BinaryIO, kind: GGUFValueType, count: int, key: str) -> list[Any]:
        dtype = np.dtype(_SCALARS[kind])
        return np.frombuffer(self._take(file, count * dtype.itemsize, key), dtype).tolist()

    def _string(self, file: BinaryIO, what: str) -> str:
        length = self._number(file, "<Q", f"length of {what}")
        if length > _STRING_BYTES:
            raise InputError(f"{self.path}: length of {what} is {length}, at most {_STRING_BYTES} is plausible")
        try:
            return self._take(file, length, what).decode()
        except UnicodeDecodeError:
            raise InputError(f"{self.path}: {what} is not UTF-8") from None

    def _name(self, file: BinaryIO, what: str) -> str:
        """A string that can stand in a message."""
        name = self._string(file, what)
        if not name.isprintable() or len(name) > _NAME_LENGTH:
            raise InputError(f"{self.path}: {what} is {name[:40]!r}, which is not a name")
        return name

    def _count(self, file: BinaryIO, what: str, item_bytes: int) -> int:
        count = self._number(file, "<Q", what)
        room = min((self._limit - file.tell()) // item_bytes, _ITEMS)
        if count > room:
            raise InputError(f"{self.path}: {what} is {count}, the file has room for {room}")
        return count

    def _number(self, file: BinaryIO, format: str, what: str) -> int:
        return struct.unpack(format, self._take(file, struct.calcsize(format), what))[0]

    def _take(self, file: BinaryIO, count: int, what: str) -> bytes:
        data = file.read(count) if file.tell() + count <= self._limit else b""
        if len(data) != count:
            cut = "is truncated: " if self._limit == self._size else ""
            raise InputError(f"{self.path}: {cut}the header ends at byte {self._limit}, within {what}")
        return data
