"""How GGUF writes each of its block formats, taken apart into what formats.py packs.

A row of k weights is k / `k` blocks of `bytes` bytes. `split` takes blocks, uint8 [n, bytes], to the parts of a header
(`Format.parts`) as the bits of their dtypes, [n, groups], and "codes", uint8 [n, k]. What a block is worth is
`gguf.quants.dequantize`; layouts: ggml/src/ggml-common.h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy import concatenate, ndarray

Split = Callable[[ndarray], dict[str, ndarray]]


@dataclass(frozen=True)
class Blocks:
    """Blocks of one type of GGUF: its name there, weights and bytes of a block."""

    name: str
    k: int
    bytes: int
    split: Split


def _f16(blocks: ndarray, at: int, negative: bool = False) -> ndarray:
    """The bits of an f16 of each block, or of its negative, [n, 1]."""
    bits = np.ascontiguousarray(blocks[:, at : at + 2]).view("<u2")
    return bits ^ 0x8000 if negative else bits


def _nibbles(data: ndarray, width: int) -> ndarray:
    """Groups of `width` bytes as their low halves, then their high ones."""
    groups = data.reshape(len(data), -1, 1, width)
    return concatenate((groups & 15, groups >> 4), 2).reshape(len(data), -1)


def _pairs(data: ndarray) -> ndarray:
    """Halves of 32 bytes, of which each shift by 0, 2, 4, 6 gives 32 numbers of 2 bits."""
    halves = data.reshape(len(data), -1, 1, 32)
    return (halves >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3).reshape(len(data), -1)


def _bits(data: ndarray) -> ndarray:
    """32 bytes, of which bit j of byte i belongs to weight 32 j + i."""
    return (data[:, None] >> np.arange(8, dtype=np.uint8)[:, None] & 1).reshape(len(data), -1)


def _signed(numbers: ndarray, zero: int) -> ndarray:
    """Numbers less what stands for zero, as the bits of int8."""
    return numbers - np.uint8(zero)


def _six_bits(scales: ndarray) -> tuple[ndarray, ndarray]:
    """Eight scales and eight minimums in 12 bytes, of Q4_K and Q5_K."""
    low, middle, high = scales[:, :4], scales[:, 4:8], scales[:, 8:]
    return (
        concatenate((low & 63, high & 15 | low >> 6 << 4), 1),
        concatenate((middle & 63, high >> 4 | middle >> 6 << 4), 1),
    )


def _q4(blocks: ndarray) -> dict[str, ndarray]:
    return {"scale": _f16(blocks, 0), "codes": _nibbles(blocks[:, 2:], 16)}


def _q4_1(blocks: ndarray) -> dict[str, ndarray]:
    return {"scale": _f16(blocks, 0), "minimum": _f16(blocks, 2), "codes": _nibbles(blocks[:, 4:], 16)}


def _fifth_bits(data: ndarray) -> ndarray:
    return np.unpackbits(data, axis=1, bitorder="little") << 4


def _q5_0(blocks: ndarray) -> dict[str, ndarray]:
    return {"scale": _f16(blocks, 0), "codes": _nibbles(blocks[:, 6:], 16) | _fifth_bits(blocks[:, 2:6])}


def _q5_1(blocks: ndarray) -> dict[str, ndarray]:
    codes = _nibbles(blocks[:, 8:], 16) | _fifth_bits(blocks[:, 4:8])
    return {"scale": _f16(blocks, 0), "minimum": _f16(blocks, 2), "codes": codes}


def _q8_0(blocks: ndarray) -> dict[str, ndarray]:
    return {"scale": _f16(blocks, 0), "codes": blocks[:, 2:] ^ 0x80}


def _mxfp4(blocks: ndarray) -> dict[str, ndarray]:
    return {"scale": blocks[:, :1], "codes": _nibbles(blocks[:, 1:], 16)}


def _q4_k(blocks: ndarray) -> dict[str, ndarray]:
    scale, minimum = _six_bits(blocks[:, 4:16])
    supers = {"super_scale": _f16(blocks, 0), "super_minimum": _f16(blocks, 2, negative=True)}
    return supers | {"scale": scale, "minimum": minimum, "codes": _nibbles(blocks[:, 16:], 32)}


def _q5_k(blocks: ndarray) -> dict[str, ndarray]:
    scale, minimum = _six_bits(blocks[:, 4:16])
    supers = {"super_scale": _f16(blocks, 0), "super_minimum": _f16(blocks, 2, negative=True)}
    codes = _nibbles(blocks[:, 48:], 32) | _bits(blocks[:, 16:48]) << 4
    return supers | {"scale": scale, "minimum": minimum, "codes": codes}


def _q6_k(blocks: ndarray) -> dict[str, ndarray]:
    codes = _nibbles(blocks[:, :128], 64) | _pairs(blocks[:, 128:192]) << 4
    return {"super_scale": _f16(blocks, 208), "scale": blocks[:, 192:208], "codes": codes}


def _q3_k(blocks: ndarray) -> dict[str, ndarray]:
    packed = blocks[:, 96:108]
    scale = _nibbles(packed[:, :8], 8) | (_two_bits(packed[:, 8:]) << 4)
    codes = _pairs(blocks[:, 32:96]) | _bits(blocks[:, :32]) << 2
    return {"super_scale": _f16(blocks, 108), "scale": _signed(scale, 32), "codes": codes}


def _two_bits(data: ndarray) -> ndarray:
    """Four bytes, of which each shift by 0, 2, 4, 6 gives four numbers of 2 bits."""
    return (data[:, None] >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3).reshape(len(data), -1)


def _q2_k(blocks: ndarray) -> dict[str, ndarray]:
    supers = {"super_scale": _f16(blocks, 80), "super_minimum": _f16(blocks, 82, negative=True)}
    scales = blocks[:, :16]
    return supers | {"scale": scales & 15, "minimum": scales >> 4, "codes": _pairs(blocks[:, 16:80])}


def _iq4_xs(blocks: ndarray) -> dict[str, ndarray]:
    high = np.ascontiguousarray(blocks[:, 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    low = blocks[:, 4:8, None] >> np.array([0, 4], np.uint8) & 15
    scale = low.reshape(len(blocks), 8) | (high << 4).astype(np.uint8)
    return {"super_scale": _f16(blocks, 0), "scale": _signed(scale, 32), "codes": _nibbles(blocks[:, 8:], 16)}


BLOCKS = {
    blocks.name: blocks
    for blocks in (
        Blocks("Q8_0", 32, 34, _q8_0),
        Blocks("Q4_0", 32, 18, _q4),
        Blocks("Q4_1", 32, 20, _q4_1),
        Blocks("Q5_0", 32, 22, _q5_0),
        Blocks("Q5_1", 32, 24, _q5_1),
        Blocks("IQ4_NL", 32, 18, _q4),
        Blocks("MXFP4", 32, 17, _mxfp4),
        Blocks("Q4_K", 256, 144, _q4_k),
        Blocks("Q5_K", 256, 176, _q5_k),
        Blocks("Q6_K", 256, 210, _q6_k),
        Blocks("IQ4_XS", 256, 136, _iq4_xs),
        Blocks("Q3_K", 256, 110, _q3_k),
        Blocks("Q2_K", 256, 84, _q2_k),
    )
}
"""By their names in GGUF."""
