"""FP8 and MXFP4 numbers as bf16, for weights that are packed in more precision than they are stored in.

E4M3 and the layout of scales: DeepSeek-V3, inference/kernel.py, weight_dequant. E2M1 and E8M0: OCP Microscaling Formats
v1.0. Every result is bf16(float32(code) * scale), which is what the kernels compute.
"""

from __future__ import annotations

import numpy as np

from ellm.kernels.pack import to_bf16

FP8_BLOCK = 128  # rows and columns that share a scale
MXFP4_BLOCK = 32  # columns that share a scale


def _e4m3() -> np.ndarray:
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    values = np.where(exponent > 0, np.ldexp(8 + mantissa, exponent - 10), np.ldexp(mantissa, -9))
    values[codes & 0x7F == 0x7F] = np.nan
    return np.where(codes < 128, values, -values).astype(np.float32)


_E4M3 = _e4m3()
_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_E2M1 = np.concatenate([_E2M1, -_E2M1])


def expand_fp8(codes: np.ndarray, scales: np.ndarray, row: int, column: int) -> np.ndarray:
    """bf16 bits of E4M3 codes [rows, columns], the first of which is (row, column) of its first 128 x 128 block.

    `scales` is float32 [ceil((row + rows) / 128), ceil((column + columns) / 128)].
    """
    rows = (row + np.arange(codes.shape[0])) // FP8_BLOCK
    columns = (column + np.arange(codes.shape[1])) // FP8_BLOCK
    return to_bf16(_E4M3[codes] * scales[np.ix_(rows, columns)])


def expand_mxfp4(pairs: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """bf16 bits [rows, 2 * columns] of E2M1 pairs [rows, columns], low nibble first, a scale per 32."""
    values = _E2M1[np.stack([pairs & 15, pairs >> 4], -1).reshape(len(pairs), -1)]
    powers = np.ldexp(np.float32(1), scales.astype(np.int32) - 127)
    return to_bf16(values * np.repeat(powers, MXFP4_BLOCK, axis=1)[:, : values.shape[1]])
