"""The NumPy reference of products in whole numbers, integer.h's equations: the same bits as its, in whatever order."""

from __future__ import annotations

import numpy as np

from ellm.kernels.contract import INT8, TILE_K
from ellm.kernels.format import Format, Numbers

_LEAST = np.float32(2.0**-100)  # activations.h
_MOST_8, _MOST_16 = np.float32(127), 256 * 127 + 127


def product(x: np.ndarray, activations: int, format: Format, weight: Numbers) -> np.ndarray:
    """x . W^T, float32 [rows, n], of x float32 [rows, k] and a weight [n, k], k whole tiles."""
    return multiply(*whole(x, activations, format), format, weight)


def multiply(whole_x: np.ndarray, scale: np.ndarray, format: Format, weight: Numbers) -> np.ndarray:
    """The same of what `whole` returns."""
    a = whole_x.reshape(len(whole_x), -1)
    sums = np.zeros((len(a), len(weight.worth)), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        for begin in range(0, a.shape[1], format.k_per_unit):
            end = min(begin + format.k_per_unit, a.shape[1])
            s = scale[:, begin // TILE_K, None]
            dot = a[:, begin:end] @ (weight.worth * weight.factor)[:, begin:end].T
            sums = sums + dot.astype(np.float32) * (weight.scale[None, :, begin] * s)
            if weight.minimum is None:
                continue
            if format.nested:
                dot = a[:, begin:end] @ weight.least[:, begin:end].T
                sums = sums + dot.astype(np.float32) * (weight.minimum[None, :, begin] * s)
            else:
                for first in range(begin, end, format.k_per_scale):
                    total = a[:, first : first + format.k_per_scale].sum(1, keepdims=True).astype(np.float32)
                    sums = sums + weight.minimum[None, :, first] * (total * s)
    return sums


def whole(x: np.ndarray, activations: int, format: Format) -> tuple[np.ndarray, np.ndarray]:
    """Activations [rows, k] as whole numbers, int64 [rows, k tile, TILE_K], and their scales, float32 [rows, k tile].

    A unit of `format.k_per_unit` has one scale: of 16 bits the least power of two that keeps all within _MOST_16,
    doubled until their sum without signs is within `format.most_sum`; of 8 bits the most / 127.
    """
    rows, k = x.shape
    units = np.zeros((rows, -(-k // format.k_per_unit), format.k_per_unit), np.float32)
    units.reshape(rows, -1)[:, :k] = x
    most = np.abs(units).max(2)
    finite, used = np.isfinite(most), np.isfinite(most) & (most >= _LEAST)
    ordinary, units = np.where(used, most, np.float32(1)), np.where(used[..., None], units, 0)
    if activations == INT8:
        scale, inverse = ordinary / _MOST_8, _MOST_8 / ordinary
        a = np.rint(units * inverse[..., None])
    else:
        scale = np.exp2(np.ceil(np.log2(ordinary.astype(np.float64) / _MOST_16))).astype(np.float32)
        while True:
            a = np.rint(units * (1 / scale)[..., None])
            over = np.abs(a).sum(2) > format.most_sum
            if not over.any():
                break
            scale = np.where(over, 2 * scale, scale)
    scale = np.where(used, scale, np.where(finite, np.float32(0), np.float32(np.nan)))
    tiles = a.astype(np.int64).reshape(rows, -1, TILE_K)[:, : k // TILE_K]
    return tiles, np.repeat(scale, format.k_per_unit // TILE_K, axis=1)[:, : k // TILE_K]
