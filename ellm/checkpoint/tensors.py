"""Tensors that lie in files, read a few rows at a time."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from ellm.kernels.errors import InputError
from ellm.kernels.pack import to_bf16

_PLAIN: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_QUANTIZED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
READABLE = (*_PLAIN, *_QUANTIZED)


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies and how its numbers are written."""

    name: str  # as Hugging Face names it
    stored: str  # as the file names it
    shape: tuple[int, ...]
    dtype: str  # "BF16", "F16", "F32", or a GGUF quantisation such as "Q4_K"
    path: Path
    offset: int  # of its first byte in the file
    row_bytes: int  # bytes of one row; of one element if the tensor is a vector
    interleaved_heads: int = 0  # heads whose rows are stored in the order 0, d/2, 1, d/2 + 1, ...; 0: rows are in order

    def __str__(self) -> str:
        return self.stored if self.stored == self.name else f"{self.stored} ({self.name})"


class TensorFiles:
    """Reads rows of tensors by `pread`, so that no page of a file counts as memory of the process. Thread-safe."""

    def __init__(self, tensors: dict[str, TensorInfo]):
        self.tensors = tensors
        self._files: dict[Path, int] = {}
        try:
            for path in {tensor.path for tensor in tensors.values()}:
                self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self.close()
            raise InputError(f"{error.filename}: cannot be opened: {error.strerror}") from error

    def read_rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows [begin, end) of a matrix as uint16 [rows, k], the bits of bf16 rounded to nearest, ties to even.

        Raises InputError if the file has become too short or its dtype cannot be read.
        """
        tensor = self.tensors[name]
        values = self._read(tensor, begin, end).reshape(end - begin, *tensor.shape[1:])
        return values if values.dtype == np.uint16 else to_bf16(values)

    def read_vector(self, name: str) -> np.ndarray:
        """A whole one-dimensional tensor as float32 [n]. Raises InputError as `read_rows` does."""
        tensor = self.tensors[name]
        values = self._read(tensor, 0, tensor.shape[0]).reshape(-1)
        return (values.astype(np.uint32) << 16).view(np.float32) if values.dtype == np.uint16 else values

    def _read(self, tensor: TensorInfo, begin: int, end: int) -> np.ndarray:
        """Rows [begin, end) in the order of Hugging Face: float32, or uint16 if the file has bf16. [rows, ...]"""
        if not tensor.interleaved_heads:
            return self._decode(tensor, begin, end)
        # The stored row 2i + j of a head is its row j * d/2 + i (llama.cpp, convert_hf_to_gguf.py, permute).
        size = tensor.shape[0] // tensor.interleaved_heads
        first, last = begin // size, -(-end // size)
        stored = self._decode(tensor, first * size, last * size)
        heads = stored.reshape(last - first, size // 2, 2, -1).swapaxes(1, 2).reshape(stored.shape)
        return heads[begin - first * size : end - first * size]

    def _decode(self, tensor: TensorInfo, begin: int, end: int) -> np.ndarray:
        data = np.empty(((end - begin), tensor.row_bytes), np.uint8)
        self._pread(tensor, data.reshape(-1), tensor.offset + begin * tensor.row_bytes)
        if tensor.dtype in _PLAIN:
            values = data.view(_PLAIN[tensor.dtype])
            return values.astype(np.float32) if tensor.dtype == "F16" else values
        if tensor.dtype in _QUANTIZED:
            return gguf.quants.dequantize(data, gguf.GGMLQuantizationType[tensor.dtype])
        raise InputError(f"{tensor.path}: {tensor}: dtype is {tensor.dtype}, ellm reads {', '.join(READABLE)}")

    def _pread(self, tensor: TensorInfo, data: np.ndarray, offset: int) -> None:
        done = 0
        while done < data.size:
            try:
                count = os.preadv(self._files[tensor.path], [data[done:].data], offset + done)
            except OSError as error:
                raise InputError(f"{tensor.path}: {tensor}: cannot be read: {error.strerror}") from error
            if count == 0:
                raise InputError(f"{tensor.path}: {tensor}: the file ends at byte {offset + done}")
            done += count

    def close(self) -> None:
        """Close the files. No row can be read afterwards."""
        while self._files:
            os.close(self._files.popitem()[1])
