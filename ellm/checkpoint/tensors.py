"""Tensors that lie in files, read a few rows at a time."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ellm.checkpoint.joined import Joined
from ellm.kernels.formats import FORMATS, PLAIN, Format, stored_format
from ellm.kernels.layout import from_bf16
from ellm.kernels.pack import pack_file_rows, read_strided, to_bf16
from ellm.system.errors import InputError

_PLAIN: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4")}
_PLAIN |= {one.stored.dtype: np.dtype(one.stored.item) for one in FORMATS.values() if not one.blocked}
_OF_PARTNERS: dict[str, np.dtype[Any]] = {"I8": np.dtype("u1"), "I32": np.dtype("<u4")}
_ITEMS = _PLAIN | _OF_PARTNERS
NUMBERS = ("F32", "F16", "BF16")  # dtypes of which each element is a number, without scales or blocks


@functools.cache
def dequantisable() -> tuple[str, ...]:
    """The block types of GGUF that the gguf package turns into numbers: it knows more names than it can decode."""
    import gguf  # takes as long to import as a packed model to start

    kinds = gguf.GGMLQuantizationType
    return tuple(kind.name for kind in kinds if kind.name not in NUMBERS and hasattr(gguf.quants, kind.name))


def readable() -> tuple[str, ...]:
    """The dtypes of tensors that can be read."""
    return tuple(dict.fromkeys((*NUMBERS, *_PLAIN, *dequantisable())))


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies and how its numbers are written."""

    name: str  # as Hugging Face names it
    stored: str  # as the file names it
    shape: tuple[int, ...]
    dtype: str  # "BF16", "F16", "F32", "F8_E4M3", "U8", a GGUF quantisation such as "Q4_K", or what `joined` makes
    path: Path
    offset: int  # of its first byte in the file
    row_bytes: int  # bytes of one index of the first axis: of a row, a vector's element, or a stacked tensor's matrix
    interleaved_heads: int = 0  # heads whose rows are stored in the order 0, d/2, 1, d/2 + 1, ...; 0: rows are in order
    in_gguf: bool = False
    scale: float = 1.0  # what each number is to be multiplied with, in f32
    joined: Joined | None = None  # it stands for the weight that several tensors hold, of which it is the codes

    def __str__(self) -> str:
        return self.stored if self.stored == self.name else f"{self.stored} ({self.name})"

    @property
    def paths(self) -> set[Path]:
        """The files that it lies in."""
        return {self.path} | ({table.tensor.path for table in self.joined.tables} if self.joined else set())

    @property
    def as_packed(self) -> bool:
        """Whether the bytes of its rows in the file are those that are packed."""
        plain = not self.joined and not self.interleaved_heads and self.scale == 1.0
        return plain and self.dtype == self.format.stored.dtype

    @property
    def format(self) -> Format:
        """What it is computed with. F32, and of GGUF all but blocks that kernels know, is rounded to bf16."""
        format = stored_format(self.name, self.dtype)
        return format if not self.in_gguf or (format.stored.blocks and self.scale == 1.0) else PLAIN


class _Stamp(NamedTuple):
    """Of a file that is what it was as long as this is the same."""

    bytes: int
    changed: int  # ns

    @classmethod
    def of(cls, status: os.stat_result) -> _Stamp:
        return cls(status.st_size, status.st_mtime_ns)

    def __str__(self) -> str:
        return f"{self.bytes} bytes of {datetime.fromtimestamp(self.changed / 1e9).isoformat(' ')}"


class TensorFiles:
    """Reads rows of tensors by `pread`, so that no page of a file counts as memory of the process. Thread-safe.

    Raises InputError if a file cannot be opened.

    Attributes:
        once: what was read leaves the page cache.
    """

    def __init__(self, tensors: dict[str, TensorInfo]):
        self.tensors = tensors
        self.once = False
        self._files: dict[Path, int] = {}
        self._open()
        self._stamps = self._read_stamps()

    def _open(self) -> None:
        try:
            for path in {path for tensor in self.tensors.values() for path in tensor.paths}:
                self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self.close()
            raise InputError(f"{error.filename}: cannot be opened: {error.strerror}") from error

    @contextmanager
    def reopened(self) -> Iterator[None]:
        """Once closed, open meanwhile. Raises InputError if a file is gone or, before or after, not what it was."""
        self._open()
        try:
            self._check_stamps()
            yield
            self._check_stamps()
        finally:
            self.close()

    def _read_stamps(self) -> dict[Path, _Stamp]:
        return {path: _Stamp.of(os.fstat(file)) for path, file in self._files.items()}

    def _check_stamps(self) -> None:
        for path, stamp in self._read_stamps().items():
            if stamp != self._stamps[path]:
                raise InputError(f"{path}: is not what it was: it has {stamp}, it had {self._stamps[path]}")

    def read_rows(
        self, name: str, begin: int, end: int, *, matrix: int | None = None, columns: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Rows [begin, end) of a matrix in the tensor's own precision, [rows, columns].

        Numbers: uint16 bits, F32 and GGUF rounded to bf16, to nearest, ties to even. Codes that have scales: as stored,
        the inner axes being one.

        Args:
            name: of the tensor.
            begin: first row.
            end: row after the last.
            matrix: which one of a stacked tensor [matrices, rows, ...].
            columns: only [first, end) of each row.

        Raises:
            InputError: the file has become too short, or its dtype cannot be read.
        """
        tensor = self.tensors[name]
        values = self._read(tensor, begin, end, matrix, columns)
        return to_bf16(values) if values.dtype == np.float32 else values

    def pack_rows(
        self,
        name: str,
        begin: int,
        rows: tuple[int, int],
        columns: tuple[int, int],
        runs: np.ndarray,
        address: int,
        k_tiles: int,
        *,
        matrix: int | None = None,
    ) -> bool:
        """Pack rows from `begin` on of a tensor that is `as_packed`, which runs know as [first, end): `pack_file_rows`.

        Returns whether one of its codes is NaN. Other arguments and errors are those of `read_rows`.
        """
        tensor = self.tensors[name]
        size = _ITEMS[tensor.dtype].itemsize
        offset, row_bytes = self._place(tensor, matrix)
        offset += begin * row_bytes + columns[0] * size
        wanted, format = (columns[1] - columns[0]) * size, tensor.format
        nan = -1 if format.nan is None else format.nan
        with _readable(tensor):
            count, found = pack_file_rows(
                self._files[tensor.path], offset, row_bytes, wanted, *rows, runs, address, format.name, k_tiles, nan
            )
        _check_end(tensor, offset, row_bytes, wanted, rows[1] - rows[0], count)
        self._forget(tensor, offset, row_bytes * (rows[1] - rows[0]))
        return found

    def read_parts(
        self, name: str, begin: int, end: int, *, matrix: int | None = None, columns: tuple[int, int]
    ) -> dict[str, np.ndarray]:
        """Rows as a blocked format packs them. Arguments and errors of `read_rows`; the columns are whole blocks of it.

        "codes", uint8 [rows, columns], and the bits of each part of its headers, [rows, groups].
        """
        tensor = self.tensors[name]
        if tensor.joined:
            return tensor.joined.parts(self._items, (begin, end), columns)
        blocks = tensor.format.stored.blocks
        assert blocks
        data = self._in_order(
            tensor, begin, end, lambda first, last: self._blocks(tensor, first, last, matrix, columns)
        )
        parts = blocks.split(data.reshape(-1, blocks.bytes))
        return {part: np.ascontiguousarray(numbers).reshape(end - begin, -1) for part, numbers in parts.items()}

    def read_scales(self, name: str, begin: int, end: int, *, matrix: int | None = None) -> np.ndarray:
        """Rows [begin, end) of a matrix of scales: uint8 as stored, or float32. [rows, columns]. See `read_rows`."""
        tensor = self.tensors[name]
        return _to_float(tensor, self._read(tensor, begin, end, matrix, None))

    def read_values(
        self, name: str, begin: int, end: int, *, matrix: int | None = None, columns: tuple[int, int] | None = None
    ) -> np.ndarray:
        """The numbers of these rows, of a tensor without scales, not rounded: float32. Arguments as of `read_rows`."""
        tensor = self.tensors[name]
        return _to_float(tensor, self._read(tensor, begin, end, matrix, columns))

    def read_vector(self, name: str, matrix: int | None = None) -> np.ndarray:
        """A whole one-dimensional tensor, or one row of a stack of them, as float32 [n]. Raises as `read_rows` does."""
        tensor = self.tensors[name]
        begin, end = (0, tensor.shape[0]) if matrix is None else (matrix, matrix + 1)
        return _to_float(tensor, self._read(tensor, begin, end, None, None).reshape(-1))

    def _read(
        self, tensor: TensorInfo, begin: int, end: int, matrix: int | None, columns: tuple[int, int] | None
    ) -> np.ndarray:
        """Rows in the order of Hugging Face: float32, or bits as the file has them. [rows, columns]"""
        if tensor.scale != 1.0:
            unscaled = replace(tensor, scale=1.0)
            return _to_float(tensor, self._read(unscaled, begin, end, matrix, columns)) * np.float32(tensor.scale)
        return self._in_order(
            tensor, begin, end, lambda first, last: self._decode(tensor, first, last, matrix, columns)
        )

    def _in_order(self, tensor: TensorInfo, begin: int, end: int, read: Callable[[int, int], np.ndarray]) -> np.ndarray:
        """Rows [begin, end) in the order of Hugging Face of what `read` takes in that of the file."""
        if not tensor.interleaved_heads:
            return read(begin, end)
        # The stored row 2i + j of a head is its row j * d/2 + i (llama.cpp, convert_hf_to_gguf.py, permute).
        size = tensor.shape[0] // tensor.interleaved_heads
        first, last = begin // size, -(-end // size)
        stored = read(first * size, last * size)
        heads = stored.reshape(last - first, size // 2, 2, -1).swapaxes(1, 2).reshape(stored.shape)
        return heads[begin - first * size : end - first * size]

    def _decode(
        self, tensor: TensorInfo, begin: int, end: int, matrix: int | None, columns: tuple[int, int] | None
    ) -> np.ndarray:
        if tensor.joined:
            return tensor.joined.numbers(self._items, (begin, end), columns or (0, tensor.shape[1]))
        if tensor.dtype not in _ITEMS and tensor.dtype in dequantisable():
            from gguf import GGMLQuantizationType, quants

            data = self._blocks(tensor, begin, end, matrix, None)
            values = quants.dequantize(data, GGMLQuantizationType[tensor.dtype])
            return values[:, slice(*columns)] if columns else values
        if tensor.dtype not in _ITEMS:
            raise InputError(f"{tensor.path}: {tensor}: dtype is {tensor.dtype}, ellm reads {', '.join(readable())}")
        dtype = _ITEMS[tensor.dtype]
        offset, row_bytes = self._place(tensor, matrix)
        first, last = columns or (0, row_bytes // dtype.itemsize)
        bits = np.empty((end - begin, last - first), dtype)
        self._pread(tensor, offset + begin * row_bytes + first * dtype.itemsize, row_bytes, bits.view(np.uint8))
        return _to_float(tensor, bits) if tensor.dtype == "F16" and tensor.format is PLAIN else bits

    def _place(self, tensor: TensorInfo, matrix: int | None) -> tuple[int, int]:
        """Where a matrix of a tensor that has no blocks begins in the file, and the bytes of its rows."""
        if matrix is None:
            return tensor.offset, tensor.row_bytes
        return tensor.offset + matrix * tensor.row_bytes, _ITEMS[tensor.dtype].itemsize * math.prod(tensor.shape[2:])

    def _items(self, tensor: TensorInfo, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
        """A rectangle of a tensor that is not joined: float32, or whole numbers as the file has them."""
        return _to_float(tensor, self._decode(tensor, *rows, None, columns))

    def _blocks(
        self, tensor: TensorInfo, begin: int, end: int, matrix: int | None, columns: tuple[int, int] | None
    ) -> np.ndarray:
        """Rows of blocks as the file has them, uint8 [rows, bytes]."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[tensor.dtype]]
        first, last = columns or (0, tensor.shape[-1])
        row_bytes = tensor.shape[-1] // block * block_bytes
        offset = tensor.offset + (matrix or 0) * tensor.row_bytes + begin * row_bytes
        data = np.empty((end - begin, (last - first) // block * block_bytes), np.uint8)
        self._pread(tensor, offset + first // block * block_bytes, row_bytes, data)
        return data

    def _pread(self, tensor: TensorInfo, offset: int, stride: int, out: np.ndarray) -> None:
        """Fill the rows of `out`, uint8 [rows, bytes], from `offset` on, `stride` bytes apart in the file."""
        with _readable(tensor):
            count = read_strided(self._files[tensor.path], offset, stride, out)
        _check_end(tensor, offset, stride, out.shape[1], len(out), count)
        self._forget(tensor, offset, stride * len(out))

    def _forget(self, tensor: TensorInfo, offset: int, size: int) -> None:
        """Let whole pages of a file leave the page cache, where `once` says so."""
        if self.once and size:
            os.posix_fadvise(self._files[tensor.path], offset, size, os.POSIX_FADV_DONTNEED)

    def total_bytes(self) -> int:
        """Of all files."""
        return sum(os.fstat(file).st_size for file in self._files.values())

    def close(self) -> None:
        """Close the files. No row can be read afterwards."""
        while self._files:
            os.close(self._files.popitem()[1])


@contextmanager
def _readable(tensor: TensorInfo) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{tensor.path}: {tensor}: cannot be read: {error.strerror}") from error


def _check_end(tensor: TensorInfo, offset: int, stride: int, size: int, rows: int, count: int) -> None:
    """`count` bytes are all of these rows."""
    if count < rows * size:
        row, byte = divmod(count, size)
        raise InputError(f"{tensor.path}: {tensor}: the file ends at byte {offset + row * stride + byte}")


def _to_float(tensor: TensorInfo, values: np.ndarray) -> np.ndarray:
    """Bits of BF16 or F16 as float32; anything else as it is."""
    if values.dtype != np.uint16:
        return values
    dtype = tensor.joined.number.stored.dtype if tensor.joined else tensor.dtype
    return values.view(np.float16).astype(np.float32) if dtype == "F16" else from_bf16(values)
