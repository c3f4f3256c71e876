"""The memory layouts of task.h as NumPy views: bf16, activations, keys and values; packed weights are formats.py's.

bf16 is held as the upper half of a float32, in uint16.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from ellm.kernels.contract import TILE_K, TILE_N


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


def keys_view(address: int, positions: int, head_dim: int) -> np.ndarray:
    """A head's keys as bf16 [position tile, d tile, d pair, position, d of the pair], at least `positions` of them."""
    return memory(address, (-(-positions // TILE_N), -(-head_dim // TILE_K), TILE_K // 2, TILE_N, 2), np.uint16)


def values_view(address: int, positions: int, head_dim: int) -> np.ndarray:
    """A head's values as bf16 [position tile, d tile, position pair, d, position of the pair]."""
    return memory(address, (-(-positions // TILE_K), -(-head_dim // TILE_N), TILE_K // 2, TILE_N, 2), np.uint16)


def read_keys(address: int, positions: int, head_dim: int) -> np.ndarray:
    """A head's first keys as float32 [positions, head_dim]."""
    tiles = keys_view(address, positions, head_dim).transpose(0, 3, 1, 2, 4)
    return from_bf16(tiles.reshape(TILE_N * tiles.shape[0], -1)[:positions, :head_dim])


def read_values(address: int, positions: int, head_dim: int) -> np.ndarray:
    """A head's first values as float32 [positions, head_dim]."""
    tiles = values_view(address, positions, head_dim).transpose(0, 2, 4, 1, 3)
    return from_bf16(tiles.reshape(TILE_K * tiles.shape[0], -1)[:positions, :head_dim])


def write_keys(address: int, positions: np.ndarray, x: np.ndarray) -> None:
    """x, [n, head_dim], rounded to bf16, to these positions of a head's keys."""
    s, d = positions[:, None], np.arange(x.shape[1])
    tiles = keys_view(address, int(s.max()) + 1, x.shape[1])
    tiles[s // TILE_N, d // TILE_K, d % TILE_K // 2, s % TILE_N, d % 2] = to_bf16(x)


def write_values(address: int, positions: np.ndarray, x: np.ndarray) -> None:
    """As write_keys, for values, [n, value_dim]."""
    s, d = positions[:, None], np.arange(x.shape[1])
    tiles = values_view(address, int(s.max()) + 1, x.shape[1])
    tiles[s // TILE_K, d // TILE_N, s % TILE_K // 2, d % TILE_N, s % 2] = to_bf16(x)


def turned(x: np.ndarray) -> np.ndarray:
    """H x / sqrt(n) of each row of x, float32 [rows, n], with Sylvester's Hadamard matrix; n is a power of two."""
    out, n, width = x.astype(np.float32), x.shape[1], 1
    while width < n:
        a, b = np.moveaxis(out.reshape(len(x), -1, 2, width), 2, 0)
        out = np.stack((a + b, a - b), axis=2).reshape(len(x), n)
        width *= 2
    return out * (np.float32(1) / np.sqrt(np.float32(n)))


def codes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 [rows, n] and scales float32 [rows] of which x, float32 [rows, n], is the product, rounded."""
    most = np.abs(x.astype(np.float32)).max(1)
    inverse = np.divide(np.float32(127), most, out=np.zeros_like(most), where=most > 0)
    return np.rint(x * inverse[:, None]).astype(np.int8), most / np.float32(127)


def keys_in_int8(address: int, positions: int, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """A head's keys as int8 [position tile, d tile, d pair, position, d of the pair], and scales [tile, 16]."""
    return _groups(address, -(-positions // TILE_N), -(-head_dim // TILE_K), TILE_N)


def values_in_int8(address: int, positions: int, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """A head's values as int8 [position tile, d tile, position pair, d, position of the pair], scales [tile, 32]."""
    return _groups(address, -(-positions // TILE_K), -(-head_dim // TILE_N), TILE_K)


def _groups(address: int, count: int, tiles: int, positions: int) -> tuple[np.ndarray, np.ndarray]:
    tile = TILE_K * TILE_N
    groups = memory(address, (count, tiles * tile + 4 * positions), np.int8)
    group, shape = groups.strides[0], (count, tiles, TILE_K // 2, TILE_N, 2)
    found = np.ndarray(shape, np.int8, groups.data, 0, (group, tile, 2 * TILE_N, 2, 1))
    return found, np.ndarray((count, positions), np.float32, groups.data, tiles * tile, (group, 4))


def read_keys_int8(address: int, positions: int, head_dim: int) -> np.ndarray:
    """A head's first keys, turned, as float32 [positions, head_dim]."""
    tiles, scales = keys_in_int8(address, positions, head_dim)
    found = tiles.transpose(0, 3, 1, 2, 4).reshape(TILE_N * len(tiles), -1)[:positions, :head_dim]
    return found.astype(np.float32) * scales.reshape(-1, 1)[:positions]


def read_values_int8(address: int, positions: int, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """A head's first values as float32 [positions, head_dim] that are to be multiplied by float32 [positions]."""
    tiles, scales = values_in_int8(address, positions, head_dim)
    found = tiles.transpose(0, 2, 4, 1, 3).reshape(TILE_K * len(tiles), -1)[:positions, :head_dim]
    return found.astype(np.float32), scales.reshape(-1)[:positions]


def write_keys_int8(address: int, positions: np.ndarray, x: np.ndarray) -> None:
    """x, [n, head_dim], turned and rounded to int8, to these positions of a head's keys."""
    s, d = positions[:, None], np.arange(x.shape[1])
    tiles, scales = keys_in_int8(address, int(s.max()) + 1, x.shape[1])
    found, scales[positions // TILE_N, positions % TILE_N] = codes(turned(x))
    tiles[s // TILE_N, d // TILE_K, d % TILE_K // 2, s % TILE_N, d % 2] = found


def write_values_int8(address: int, positions: np.ndarray, x: np.ndarray) -> None:
    """As write_keys_int8, for values, [n, value_dim], which are not turned."""
    s, d = positions[:, None], np.arange(x.shape[1])
    tiles, scales = values_in_int8(address, int(s.max()) + 1, x.shape[1])
    found, scales[positions // TILE_K, positions % TILE_K] = codes(x)
    tiles[s // TILE_K, d // TILE_N, s % TILE_K // 2, d % TILE_N, s % 2] = found
