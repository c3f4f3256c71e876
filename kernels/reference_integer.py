"""The NumPy reference of products in whole numbers, integer.h's equations: the same bits as its, in whatever order."""

from __future__ import annotations

import numpy as np

from ellm.kernels.contract import INT8, TILE_K
from ellm.kernels.format import Format, Numbers

_LEAST = np.float32(2.0**-100)  # activations.h
_MOST_8 = np.float32(127)


def product(x: np.ndarray, activations: int, format: Format, weight: Numbers) -> np.ndarray:
    """x . W^T, float32 [rows, n], of x float32 [rows, k] and a weight [n, k], k whole tiles."""
    a, scale = whole(x, activations, format)
    sums = np.zeros((len(x), len(weight.worth)), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        for tile in range(a.shape[1]):
            k = slice(tile * TILE_K, (tile + 1) * TILE_K)
            s = scale[:, tile, None]
            dot = a[:, tile] @ (weight.worth * weight.factor)[:, k].T
            sums = sums + dot.astype(np.float32) * (weight.scale[None, :, k.start] * s)
            for first in range(0, TILE_K if weight.minimum is not None else 0, format.k_per_scale):
                total = a[:, tile, first : first + format.k_per_scale].sum(1, keepdims=True).astype(np.float32)
                assert weight.minimum is not None
                sums = sums + weight.minimum[None, :, k.start + first] * (total * s)
    return sums


def whole(x: np.ndarray, activations: int, format: Format) -> tuple[np.ndarray, np.ndarray]:
    """Activations [rows, k] as whole numbers, int64 [rows, k tile, TILE_K], and their scales, float32 [rows, k tile].

    Of 16 bits a scale is the least power of two that keeps all within `format.levels`, of 8 bits the most / 127.
    """
    tiles = x.reshape(len(x), -1, TILE_K)
    most = np.abs(tiles).max(2)
    finite, used = np.isfinite(most), np.isfinite(most) & (most >= _LEAST)
    ordinary = np.where(used, most, np.float32(1))
    if activations == INT8:
        scale, inverse = ordinary / _MOST_8, _MOST_8 / ordinary
    else:
        scale = np.exp2(np.ceil(np.log2(ordinary.astype(np.float64) / format.levels))).astype(np.float32)
        inverse = 1 / scale
    a = np.rint(np.where(used[..., None], tiles, 0) * inverse[..., None])
    scale = np.where(used, scale, np.where(finite, np.float32(0), np.float32(np.nan)))
    return a.astype(np.int64), scale
