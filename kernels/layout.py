"""The memory layouts of task.h as NumPy views: bf16, packed weights, keys and values.

bf16 is held as the upper half of a float32, in uint16.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from ellm.kernels.contract import FORMATS, column_bytes


def to_bf16(x: np.ndarray) -> np.ndarray:
    """float32 to bf16, rounded to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def from_bf16(x: np.ndarray) -> np.ndarray:
    """bf16 to float32, exactly."""
    return (x.astype(np.uint32) << 16).view(np.float32)


def memory(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A writable view of the memory at an address."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(int(address)), dtype).reshape(shape)


def activation(
    section: np.ndarray, offset: int, shape: tuple[int, ...], dtype: np.dtype, stride: int | None = None
) -> np.ndarray:
    """The activation at byte `offset` of a section; `stride` is its elements from row to row if they are more."""
    inner = np.empty(shape, dtype).strides[1:]
    row = dtype.itemsize * (stride or int(np.prod(shape[1:])))
    return np.ndarray(shape, dtype, section.data, offset, (row, *inner))


def weight(address: int, n_tiles: int, k_tiles: int, format: int = FORMATS["bf16"]) -> np.ndarray:
    """A packed weight as float32 [16 * n_tiles, 32 * k_tiles]."""
    if format in (FORMATS["fp8"], FORMATS["mxfp4"]):
        return _scaled_weight(address, n_tiles, k_tiles, format)
    tiles = memory(address, (n_tiles, k_tiles, 16, 16, 2), np.uint16)  # n tile, k tile, k pair, n, k of the pair
    rows = tiles.transpose(0, 3, 1, 2, 4).reshape(16 * n_tiles, 32 * k_tiles)
    return from_bf16(rows) if format == FORMATS["bf16"] else rows.view(np.float16).astype(np.float32)


def _scaled_weight(address: int, n_tiles: int, k_tiles: int, format: int) -> np.ndarray:
    """bf16(f32(code) * f32(scale)) of FP8 or MXFP4 in blocks of 128 k, as float32."""
    blocks = -(-k_tiles // 4)
    data = memory(address, (n_tiles, blocks, column_bytes(format, 4)), np.uint8)
    if format == FORMATS["fp8"]:
        scales = np.repeat(data[:, :, :64].copy().view(np.float32)[:, :, None], 4, 2)  # n tile, block, k tile, n
        codes = E4M3[data[:, :, 64:]].reshape(n_tiles, blocks, 4, 16, 16, 2)
    else:
        scales = e8m0(data[:, :, :64]).reshape(n_tiles, blocks, 4, 16)
        pairs = data[:, :, 64:].reshape(n_tiles, blocks, 4, 16, 16)
        codes = E2M1[np.stack((pairs & 15, pairs >> 4), -1)]
    with np.errstate(over="ignore"):
        tiles = from_bf16(to_bf16(codes * scales[:, :, :, None, :, None]))
    return tiles.transpose(0, 4, 1, 2, 3, 5).reshape(16 * n_tiles, -1)[:, : 32 * k_tiles]


def e8m0(codes: np.ndarray) -> np.ndarray:
    """2^(code - 127) as float32; infinite for 255."""
    return np.where(codes == 0, 1 << 22, codes.astype(np.uint32) << 23).astype(np.uint32).view(np.float32)


def _e4m3() -> np.ndarray:
    """The 256 numbers of FP8 E4M3 (Micikevicius et al., 2022): no infinities, NaN is 0x7f."""
    exponent, mantissa = np.arange(128) >> 3, np.arange(128) & 7
    values = np.where(exponent > 0, (8 + mantissa) * 2.0 ** (exponent - 10), mantissa * 2.0**-9)
    values[127] = np.nan
    return np.concatenate((values, -values)).astype(np.float32)


E4M3 = _e4m3()
"""Code to float32."""

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""Code of a 4-bit float (OCP Microscaling Formats, 2023) to float32."""


def keys_view(address: int, positions: int, head_dim: int) -> np.ndarray:
    """A head's keys as bf16 [position tile, d tile, d pair, position, d of the pair], at least `positions` of them."""
    return memory(address, (-(-positions // 16), -(-head_dim // 32), 16, 16, 2), np.uint16)


def values_view(address: int, positions: int, head_dim: int) -> np.ndarray:
    """A head's values as bf16 [position tile, d tile, position pair, d, position of the pair]."""
    return memory(address, (-(-positions // 32), -(-head_dim // 16), 16, 16, 2), np.uint16)


def read_keys(address: int, positions: int, head_dim: int) -> np.ndarray:
    """A head's first keys as float32 [positions, head_dim]."""
    tiles = keys_view(address, positions, head_dim).transpose(0, 3, 1, 2, 4)
    return from_bf16(tiles.reshape(16 * tiles.shape[0], -1)[:positions, :head_dim])


def read_values(address: int, positions: int, head_dim: int) -> np.ndarray:
    """A head's first values as float32 [positions, head_dim]."""
    tiles = values_view(address, positions, head_dim).transpose(0, 2, 4, 1, 3)
    return from_bf16(tiles.reshape(32 * tiles.shape[0], -1)[:positions, :head_dim])


def write_keys(address: int, positions: np.ndarray, x: np.ndarray) -> None:
    """x, [n, head_dim], rounded to bf16, to these positions of a head's keys."""
    s, d = positions[:, None], np.arange(x.shape[1])
    tiles = keys_view(address, int(s.max()) + 1, x.shape[1])
    tiles[s // 16, d // 32, d % 32 // 2, s % 16, d % 2] = to_bf16(x)


def write_values(address: int, positions: np.ndarray, x: np.ndarray) -> None:
    """As write_keys, for values, [n, value_dim]."""
    s, d = positions[:, None], np.arange(x.shape[1])
    tiles = values_view(address, int(s.max()) + 1, x.shape[1])
    tiles[s // 32, d // 16, s % 32 // 2, d % 16, s % 2] = to_bf16(x)
