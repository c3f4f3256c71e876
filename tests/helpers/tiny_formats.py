"""Number formats of checkpoints, in NumPy: bf16, fp8 (E4M3) with a scale per 128 x 128 block, MXFP4."""

import numpy as np
from tiny_shapes import BLOCK, GROUP

_CODES = np.arange(127)  # 127 is NaN
E4M3 = np.where(
    _CODES < 8, np.ldexp(_CODES / 8.0, -6), np.ldexp(1 + (_CODES % 8) / 8.0, _CODES // 8 - 7)
).astype(np.float32)  # the values of codes 0 to 126; bit 7 is the sign  # fmt: skip
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)  # of codes 0 to 7; bit 3 is the sign


def to_bf16(values: np.ndarray) -> np.ndarray:
    """float32 -> uint16 bf16 bits, rounded to nearest even (finite values)."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """uint16 bf16 bits -> float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_fp8(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 [rows, k] -> uint8 codes [rows, k] and float32 scales [ceil(rows / 128), ceil(k / 128)]."""
    rows, k = values.shape
    padded = np.zeros((-(-rows // BLOCK), BLOCK, -(-k // BLOCK), BLOCK), np.float32)
    padded.reshape(padded.shape[0] * BLOCK, -1)[:rows, :k] = values
    scales = np.abs(padded).max(axis=(1, 3)) / E4M3[-1]
    return nearest(values / spread(scales, values.shape), E4M3, 7), scales


def from_fp8(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Inverse of to_fp8: code times scale in float32."""
    return with_sign(codes, E4M3, 7) * spread(scales, codes.shape)


def spread(scales: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Scales of blocks -> one for each element of [rows, k]."""
    return scales.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[: shape[0], : shape[1]]


def to_mxfp4(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 [..., k] -> uint8 blocks [..., k / 32, 16] of two codes, the even one low, and scales [..., k / 32]."""
    groups = values.reshape(*values.shape[:-1], -1, GROUP)
    exponent = np.frexp(np.abs(groups).max(axis=-1))[1] - 3  # the largest lies in [4, 8) times 2 ** exponent
    codes = nearest(np.ldexp(groups, -exponent[..., None]), E2M1, 3)
    return codes[..., 0::2] | codes[..., 1::2] << 4, (exponent + 127).astype(np.uint8)


def from_mxfp4(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Inverse of to_mxfp4."""
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], GROUP)
    values = np.ldexp(with_sign(codes, E2M1, 3), scales.astype(np.int32)[..., None] - 127)
    return values.reshape(*scales.shape[:-1], -1)


def nearest(values: np.ndarray, table: np.ndarray, sign: int) -> np.ndarray:
    """The codes of the closest numbers of a table of magnitudes; what is beyond the last gets the last."""
    magnitude = np.searchsorted((table[1:] + table[:-1]) / 2, np.abs(values)).astype(np.uint8)
    return magnitude | (np.signbit(values).astype(np.uint8) << sign)


def with_sign(codes: np.ndarray, table: np.ndarray, sign: int) -> np.ndarray:
    magnitude = table[codes & ((1 << sign) - 1)]
    return np.where(codes >> sign, -magnitude, magnitude)
