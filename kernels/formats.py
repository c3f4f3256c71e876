"""The formats of a packed weight: the only place where what is so of one of them stands.

A packed weight is [n_tiles][k_tiles] tiles of TILE_K k x TILE_N columns, zero padded, so that column tile n is one
contiguous run over k. A tile holds pairs of k, `tile[k / 2][n][k % 2]`; of 4 bits the even k is the low half of a byte.
A format with scales has a block for each BLOCK_K k of a column tile (the last padded): a header, then the block's
tiles. A header holds `scale[k group][n]`, then `zero[k group][n]` if the format has any, for the k groups of
`k_per_scale`. A weight is worth bf16(f32(code - zero) * f32(scale)), and without scales what its code is worth.

C sees these facts by formats.h, which generate.py makes; expand.h has the code that expands each format to bf16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ellm.kernels.contract import TILE, TILE_K, TILE_N
from ellm.kernels.layout import from_bf16, memory, to_bf16

BLOCK_K = 128
"""k of a block, whose scales stand before it."""
BLOCK_TILES = BLOCK_K // TILE_K

Decode = Callable[[np.ndarray], np.ndarray]


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


def e8m0(codes: np.ndarray) -> np.ndarray:
    """2^(code - 127) as float32; infinite for 255."""
    return np.where(codes == 0, 1 << 22, codes.astype(np.uint32) << 23).astype(np.uint32).view(np.float32)


@dataclass(frozen=True)
class Stored:
    """How checkpoints write a format: the tensors of a weight [rows, k], and of its scales.

    A tensor is known by its dtype and the suffix of its name, which is added to that of the module's weight.
    """

    dtype: str  # as safetensors names it
    item: str  # of NumPy, which holds one or more codes
    suffix: str = ""
    k_first: bool = True  # a weight that is stored transposed is [k, rows] in this format too; False: never
    group: int = 0  # the innermost axis holds so many k, the one before it these groups; 0: there is one axis of k
    scales: str = ""  # suffix
    scale_dtypes: tuple[str, ...] = ()
    rows_per_scale: int = 1
    experts_only: bool = False  # checkpoints keep all other weights of a model that has experts in more precision


@dataclass(frozen=True, eq=False)
class Format:
    """One format. `decode` takes codes (an array of unsigned integers) to what they are worth, float32."""

    number: int  # in task.h's args
    name: str
    bits: int  # of a code
    decode: Decode
    stored: Stored
    computed: str  # what kernels do with it, for people
    terms: int = 1  # bf16 numbers whose exact sum is what a weight is worth
    k_per_scale: int = 0  # 0: no scales
    scale: np.dtype[Any] | None = None
    decode_scale: Decode = np.asarray
    zero: np.dtype[Any] | None = None
    nan: int | None = None  # the code that is NaN, with the sign bit or without

    @property
    def word_bytes(self) -> int:
        """Bytes of a pair of k of one column."""
        return self.bits // 4

    @property
    def tile_bytes(self) -> int:
        """Bytes of a tile, without scales."""
        return TILE * self.bits // 8

    @property
    def header_bytes(self) -> int:
        """Bytes of the scales and zeros of a block of one column tile, 0 if it has none."""
        return self.groups * TILE_N * sum(one.itemsize for one in (self.scale, self.zero) if one)

    @property
    def groups(self) -> int:
        """Scales of a column in a header."""
        return BLOCK_K // self.k_per_scale if self.k_per_scale else 0

    @property
    def block_bytes(self) -> int:
        """Bytes of a block of one column tile: its header and BLOCK_TILES tiles."""
        return self.header_bytes + BLOCK_TILES * self.tile_bytes

    def column_bytes(self, k_tiles: int) -> int:
        """Bytes of one column tile of a packed weight, 64-byte aligned."""
        return -(-k_tiles // BLOCK_TILES) * self.block_bytes if self.k_per_scale else k_tiles * self.tile_bytes

    @property
    def stored_bits(self) -> float:
        """Bits of a weight in a checkpoint, with its share of a scale."""
        shared = self.stored.rows_per_scale * self.k_per_scale
        return self.bits + (8 * self.scale.itemsize / shared if self.scale else 0)

    @property
    def codes_per_item(self) -> int:
        """Codes in an element of the tensor that stores them."""
        return 8 * np.dtype(self.stored.item).itemsize // self.bits

    def scale_bits(self, scales: np.ndarray) -> np.ndarray:
        """Scales as a checkpoint has them as the bits of numbers of the packed type, unsigned."""
        assert self.scale
        return scales.astype(self.scale).view(f"u{self.scale.itemsize}")

    def codes(self, data: np.ndarray) -> np.ndarray:
        """uint8 [..., bytes] as codes [..., elements]."""
        if self.bits == 4:
            return np.stack((data & 15, data >> 4), -1).reshape(*data.shape[:-1], -1)
        return data if self.bits == 8 else np.ascontiguousarray(data).view(np.uint16)

    def weight(self, address: int, n_tiles: int, k_tiles: int) -> np.ndarray:
        """The packed weight at an address as float32 [TILE_N * n_tiles, TILE_K * k_tiles]."""
        size = self.column_bytes(k_tiles)
        blocks = size // self.block_bytes if self.k_per_scale else 1
        data = memory(address, (n_tiles, blocks, size // blocks), np.uint8)
        header = self.header_bytes
        codes = self.codes(data[:, :, header:]).reshape(n_tiles, blocks, -1, TILE_K // 2, TILE_N, 2)
        values = self._scaled(self.decode(codes), data[:, :, :header]) if self.k_per_scale else self.decode(codes)
        rows = values.transpose(0, 4, 1, 2, 3, 5).reshape(TILE_N * n_tiles, -1)
        return rows[:, : TILE_K * k_tiles]

    def _scaled(self, values: np.ndarray, header: np.ndarray) -> np.ndarray:
        """bf16((code - zero) * scale) of values [n tile, block, k tile, k pair, n, k of the pair]."""
        assert self.scale
        size = self.groups * TILE_N * self.scale.itemsize
        scales = self.decode_scale(self._spread(header[:, :, :size], self.scale))
        if self.zero:
            values = values - self._spread(header[:, :, size:], self.zero).astype(np.float32)
        with np.errstate(over="ignore"):
            return from_bf16(to_bf16(values * scales))

    def _spread(self, header: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
        """Numbers of a header, bytes [n tile, block, k group and n], for each element of its block."""
        numbers = header.copy().view(dtype).reshape(*header.shape[:2], -1, TILE_N)
        each = np.repeat(numbers, self.k_per_scale, 2)
        return each.reshape(*header.shape[:2], BLOCK_TILES, TILE_K // 2, 2, TILE_N).swapaxes(4, 5)

    def source_shape(self, rows: int, k: int, transposed: bool) -> list[int]:
        """The shape in which a checkpoint stores a weight [rows, k]."""
        if self.stored.group:
            return [rows, -(-k // self.stored.group), self.stored.group // self.codes_per_item]
        first, second = (k, rows) if self.turned(transposed) else (rows, k)
        return [first, -(-second // self.codes_per_item)]

    def scales_shape(self, rows: int, k: int, transposed: bool) -> list[int]:
        """The shape of the tensor of its scales."""
        height, width = self.scale_block(transposed)
        first, second = (k, rows) if self.turned(transposed) else (rows, k)
        return [-(-first // height), -(-second // width)]

    def turned(self, transposed: bool) -> bool:
        """Whether a weight that its model sees `transposed` is stored [k, rows]."""
        return transposed and self.stored.k_first

    def scale_block(self, transposed: bool) -> tuple[int, int]:
        """Rows and columns of the stored tensor that share a scale."""
        block = self.stored.rows_per_scale, self.k_per_scale
        return block[::-1] if self.turned(transposed) else block

    def expand(self, stored: np.ndarray, scales: np.ndarray, first: tuple[int, int], transposed: bool) -> np.ndarray:
        """float32(code) * scale, float32 [rows, columns], of stored bytes [rows, bytes].

        `first` is where the rectangle begins in its first block of the tensor; `scales` are those of its blocks,
        [ceil((first row + rows) / block rows), ceil((first column + columns) / block columns)].
        """
        values = self.decode(self.codes(stored))
        rows, columns = (
            (begin + np.arange(size)) // block
            for begin, size, block in zip(first, values.shape, self.scale_block(transposed), strict=True)
        )
        return values * self.decode_scale(scales)[np.ix_(rows, columns)]


_EXPANDED = "expanded to bf16 with their block scales on the way to the multiplication"

FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Format(0, "bf16", 16, from_bf16, Stored("BF16", "<u2"), "multiplied as they are"),
        Format(
            number=1,
            name="f16",
            bits=16,
            decode=lambda codes: codes.view(np.float16).astype(np.float32),
            stored=Stored("F16", "<u2"),
            computed="multiplied as the two bf16 terms that each weight is the exact sum of",
            terms=2,
        ),
        Format(
            number=2,
            name="fp8",
            bits=8,
            decode=E4M3.__getitem__,
            # DeepSeek-V3, inference/kernel.py, weight_dequant
            stored=Stored(
                "F8_E4M3",
                "u1",
                scales="_scale_inv",
                scale_dtypes=("F32", "BF16", "F16"),
                rows_per_scale=128,
            ),
            computed=_EXPANDED,
            k_per_scale=128,
            scale=np.dtype(np.float32),
            nan=0x7F,
        ),
        Format(
            number=3,
            name="mxfp4",
            bits=4,
            decode=E2M1.__getitem__,
            stored=Stored(
                "U8",
                "u1",
                suffix="_blocks",
                k_first=False,
                group=32,
                scales="_scales",
                scale_dtypes=("U8",),
                experts_only=True,
            ),
            computed=_EXPANDED,
            k_per_scale=32,
            scale=np.dtype(np.uint8),
            decode_scale=e8m0,
        ),
    )
}
"""Formats by name. A checkpoint's tensor whose dtype none of them stores is rounded to the first."""
PLAIN = FORMATS["bf16"]
"""What kernels multiply without expanding it."""
HYPOTHETICAL: dict[str, Format] = {
    format.name: format
    for format in (
        Format(
            number=4,
            name="int8",
            bits=8,
            decode=lambda codes: codes.view(np.int8).astype(np.float32),
            stored=Stored("I8", "i1"),
            computed=_EXPANDED,
            k_per_scale=32,
            scale=np.dtype(np.float16),
        ),
        Format(
            number=5,
            name="int4",
            bits=4,
            decode=lambda codes: codes.astype(np.float32) - 8,
            stored=Stored("I8", "i1"),
            computed=_EXPANDED,
            k_per_scale=32,
            scale=np.dtype(np.float16),
        ),
    )
}
"""Formats that no kernel computes and no checkpoint is in, with a scale per 32 weights as GGUF has it: for planning."""
KNOWN = FORMATS | HYPOTHETICAL
"""What a program can be compiled for."""
NUMBERED = tuple(sorted(KNOWN.values(), key=lambda format: format.number))


def stored_format(name: str, dtype: str) -> Format:
    """The format that a checkpoint's tensor is in, by dtype and, if several have that, name; PLAIN if none has."""
    found = [format for format in FORMATS.values() if format.stored.dtype == dtype]
    named = [format for format in found if name.endswith(format.stored.suffix)]
    return (named or found or [PLAIN])[0]
