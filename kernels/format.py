"""What a format of packed weights is; the formats themselves are in formats.py.

A packed weight is [n_tiles][k_tiles] tiles of TILE_K k x TILE_N columns, zero padded, so that column tile n is one
contiguous run over k. A tile of a `paired` format holds pairs of k, `tile[k / 2][n][k % 2]`. All other codes have up to
8 bits and are cut into parts of 8, 4, 2 and 1 bits, the lowest bits first; a tile holds one part of all codes after the
other, each as little-endian words of 32 bits, `part[word][n]`. Code i of the 32 / w codes in a word is w bits of byte
0, 2, 1 or 3 (by i % 4) from bit w * (i / 4) on: one shift and one mask of a word give four codes a byte each, of which
its halves hold two neighbours, as instructions that multiply bytes and those that multiply halves want them.

A format with scales has a block for each `k_per_block` k of a column tile (the last padded): a header, then the
block's tiles. A header is its `parts` one after the other, each `part[k group][n]`, and what fills its last line.
Scales and what else there is for a group of `k_per_scale` k are numbers; of a `nested` format they are signed bytes, to
be multiplied with an f16 that the block has for each column, `super_scale` or `super_minimum`. A weight is worth
bf16(f32(f32(code - zero) * f32(scale)) + minimum), f16 in place of bf16 if it has two terms; without scales, what its
code is worth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ellm.kernels.contract import TILE, TILE_K, TILE_N
from ellm.kernels.gguf_blocks import Blocks
from ellm.kernels.layout import from_bf16, memory, to_bf16

BLOCK_K = 128
"""k of a block, unless its format says otherwise."""
BLOCK_TILES = BLOCK_K // TILE_K
_LINE = 64
_WORD = np.array([0, 16, 8, 24], np.uint32)  # bits before the bytes of four neighbours
_F16, _I8 = np.dtype(np.float16), np.dtype(np.int8)

Decode = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Stored:
    """How checkpoints write a format: the tensors of a weight [rows, k], and of its scales.

    A tensor is known by its dtype and the suffix of its name, which is added to that of the module's weight.
    """

    dtype: str  # as safetensors or GGUF names it
    item: str  # of NumPy, which holds one or more codes
    suffix: str = ""
    k_first: bool = True  # a weight that is stored transposed is [k, rows] in this format too; False: never
    group: int = 0  # the innermost axis holds so many k, the one before it these groups; 0: there is one axis of k
    scales: str = ""  # suffix
    scale_dtypes: tuple[str, ...] = ()
    rows_per_scale: int = 1
    experts_only: bool = False  # checkpoints keep all other weights of a model that has experts in more precision
    blocks: Blocks | None = None  # codes and scales are in one tensor, block by block
    joined: bool = (
        False  # tensors of codes, scales and zeros, in one of several layouts, are read as one of the weights
    )


@dataclass(frozen=True)
class Part:
    """Numbers in a header, [groups][TILE_N] from byte `offset` on."""

    dtype: np.dtype[Any]
    groups: int
    offset: int

    @property
    def bytes(self) -> int:
        """Its size."""
        return self.groups * TILE_N * self.dtype.itemsize


@dataclass(frozen=True)
class Numbers:
    """A packed weight of whole numbers, arrays [n, k]: worth * factor * scale (+ least * minimum) in order."""

    worth: np.ndarray  # int64
    factor: np.ndarray  # int64: scales of a nested format
    scale: np.ndarray  # float32
    least: np.ndarray  # int64: minimums of a nested format
    minimum: np.ndarray | None  # float32


@dataclass(frozen=True, eq=False)
class Format:
    """One format. `decode` takes codes (an array of unsigned integers) to what they are worth, float32."""

    number: int  # in task.h's args
    name: str
    bits: int  # of a code
    decode: Decode
    stored: Stored
    computed: str  # what kernels do with it, for people
    paired: bool = False  # a tile holds pairs of k, not words
    terms: int = 1  # bf16 numbers whose exact sum is what a weight is worth
    k_per_block: int = BLOCK_K
    k_per_scale: int = 0  # 0: no scales
    nested: bool = False  # scales and minimums are int8, times an f16 of the block
    most_scale: int = 1  # of a nested format, the most that an int8 is, its sign aside
    unit: float = 1  # what all codes are worth whole numbers of, unless `paired`; a power of two
    scale: np.dtype[Any] | None = None
    decode_scale: Decode = np.asarray
    minimum: np.dtype[Any] | None = None  # is added
    zero: np.dtype[Any] | None = None
    packs: str = ""  # the stored format whose numbers it holds in fewer bits; "": it is stored itself
    pays: tuple[str, ...] = ()  # ISAs on which such weights are multiplied faster than as they are stored
    nan: int | None = None  # the code that is NaN, with the sign bit or without
    tried: tuple[float, ...] = ()  # what `encode` lets a group's number of largest magnitude be worth, before the scale

    @cached_property
    def parts(self) -> dict[str, Part]:
        """The header, in order."""
        found: dict[str, Part] = {}
        supers = [("super_scale", _F16), ("super_minimum", self.minimum and _F16)] if self.nested else []
        for name, dtype in (*supers, ("scale", self.scale), ("minimum", self.minimum), ("zero", self.zero)):
            if dtype is not None:
                groups = 1 if name.startswith("super") else self.groups
                found[name] = Part(dtype, groups, sum(part.bytes for part in found.values()))
        return found

    @property
    def worth(self) -> np.ndarray:
        """What each code is worth in units, int8; a zero where that is no whole number of 8 bits."""
        coded = self.scale is not None and not self.paired
        values = self.worths / self.unit if coded else np.zeros(1)
        return values.astype(np.int8)

    @property
    def whole(self) -> bool:
        """Whether codes are worth whole numbers of 8 bits, which are multiplied as such before they are scaled.

        Not those of formats that stand for what a reference makes of its product with a scale.
        """
        return self.scale is not None and not self.paired and not self.stored.joined

    @property
    def k_per_unit(self) -> int:
        """k of activations that have one scale: of a nested format all that share its f16."""
        return self.k_per_block if self.nested else TILE_K

    @property
    def most_sum(self) -> int:
        """The most that activations of 16 bits with one scale may be, added up without their signs, so that the sum of
        their products fits in 32 bits."""
        return (2**31 - 1) // (int(np.abs(self.worth.astype(int)).max()) * self.most_scale)

    @property
    def numbers(self) -> str:
        """The name of the format in which checkpoints have its numbers."""
        return self.packs or self.name

    @property
    def spill_bytes(self) -> int:
        """Most bytes that a block may have behind all weights."""
        return 0

    def exceptions(self, blocks: np.ndarray) -> tuple[int, int]:
        """Of packed blocks, uint8 [n, block_bytes]: elements that are listed in their header, and blocks that spill."""
        return 0, 0

    @property
    def blocked(self) -> bool:
        """Whether its code is that of expand_blocks.h, and a checkpoint's reader gives the parts of its headers."""
        return self.stored.blocks is not None or self.stored.joined

    @property
    def widths(self) -> tuple[int, ...]:
        """Bits of the parts that a code is cut into, the lowest first."""
        return tuple(width for width in (8, 4, 2, 1) if self.bits & width)

    @property
    def word_bytes(self) -> int:
        """Bytes of one column that lie together: a pair of k, or a word of codes that are not cut."""
        return self.bits // 4 if self.paired else 4

    @property
    def tile_bytes(self) -> int:
        """Bytes of a tile, without scales."""
        return TILE * self.bits // 8

    @property
    def header_bytes(self) -> int:
        """Bytes of what stands before the tiles of a block of one column tile, 0 if there is nothing."""
        return -(-sum(part.bytes for part in self.parts.values()) // _LINE) * _LINE

    @property
    def groups(self) -> int:
        """Scales of a column in a header."""
        return self.k_per_block // self.k_per_scale if self.k_per_scale else 0

    @property
    def block_tiles(self) -> int:
        """Tiles of a block of one column tile."""
        return self.k_per_block // TILE_K

    @property
    def block_bytes(self) -> int:
        """Bytes of a block of one column tile: its header and its tiles."""
        return self.header_bytes + self.block_tiles * self.tile_bytes

    def column_bytes(self, k_tiles: int) -> int:
        """Bytes of one column tile of a packed weight, 64-byte aligned."""
        return -(-k_tiles // self.block_tiles) * self.block_bytes if self.header_bytes else k_tiles * self.tile_bytes

    @property
    def stored_bits(self) -> float:
        """Bits of a weight in a checkpoint, with its share of a scale."""
        if self.stored.blocks:
            return 8 * self.stored.blocks.bytes / self.stored.blocks.k
        shared = self.stored.rows_per_scale * self.k_per_scale
        return self.bits + sum(8 * part.dtype.itemsize for part in self.parts.values()) / max(shared, 1)

    @property
    def codes_per_item(self) -> int:
        """Codes in an element of the tensor that stores them; of blocks, elements count."""
        return 1 if self.blocked else 8 * np.dtype(self.stored.item).itemsize // self.bits

    def scale_bits(self, scales: np.ndarray) -> np.ndarray:
        """Scales as a checkpoint has them as the bits of numbers of the packed type, unsigned."""
        assert self.scale
        return scales.astype(self.scale).view(f"u{self.scale.itemsize}")

    def codes(self, data: np.ndarray) -> np.ndarray:
        """uint8 [..., bytes] as codes [..., elements], of codes that are not cut."""
        if self.bits == 4:
            return np.stack((data & 15, data >> 4), -1).reshape(*data.shape[:-1], -1)
        return data if self.bits == 8 else np.ascontiguousarray(data).view(np.uint16)

    def weight(self, address: int, n_tiles: int, k_tiles: int) -> np.ndarray:
        """The packed weight at an address as float32 [TILE_N * n_tiles, TILE_K * k_tiles]."""
        header, tiles = self._blocks(address, n_tiles, k_tiles)
        values = self.decode(tiles)
        return self._rows(self._scaled(values, header) if self.k_per_scale else values, k_tiles)

    def integers(self, address: int, n_tiles: int, k_tiles: int) -> Numbers:
        """The packed weight at an address, of a `whole` format, before it is scaled."""
        header, tiles = self._blocks(address, n_tiles, k_tiles)
        worth = self.worth.astype(np.int64)[tiles]
        factor, least, minimum = np.ones_like(worth), np.ones_like(worth), None
        if self.nested:
            scale, factor = self._spread(header, "super_scale"), self._spread(header, "scale").astype(np.int64)
        else:
            scale = self.decode_scale(self._spread(header, "scale"))
        if self.minimum and self.nested:
            minimum, least = self._spread(header, "super_minimum"), self._spread(header, "minimum").astype(np.int64)
        elif self.minimum:
            minimum = self._spread(header, "minimum")
        scale = scale.astype(np.float32) * np.float32(self.unit)
        if minimum is not None:
            minimum = self._rows(minimum.astype(np.float32), k_tiles)
        worth, factor, scale, least = (self._rows(part, k_tiles) for part in (worth, factor, scale, least))
        return Numbers(worth, factor, scale, least, minimum)

    def _blocks(self, address: int, n_tiles: int, k_tiles: int) -> tuple[np.ndarray, np.ndarray]:
        """Headers [n tile, block, bytes], and codes as `_tiles` has them."""
        size = self.column_bytes(k_tiles)
        blocks = size // self.block_bytes if self.k_per_scale else 1
        data = memory(address, (n_tiles, blocks, size // blocks), np.uint8)
        return data[:, :, : self.header_bytes], self._tiles(data[:, :, self.header_bytes :])

    @staticmethod
    def _rows(tiles: np.ndarray, k_tiles: int) -> np.ndarray:
        """Numbers laid out as `_tiles` has codes, as [n, k]."""
        rows = tiles.transpose(0, 4, 1, 2, 3, 5).reshape(TILE_N * tiles.shape[0], -1)
        return rows[:, : TILE_K * k_tiles]

    def _tiles(self, data: np.ndarray) -> np.ndarray:
        """Bytes of tiles, [n tile, block, bytes], as codes [n tile, block, k tile, k pair, n, k of the pair]."""
        tiles = np.ascontiguousarray(data).reshape(*data.shape[:2], -1, self.tile_bytes)
        if self.paired:
            return self.codes(tiles).reshape(*tiles.shape[:3], TILE_K // 2, TILE_N, 2)
        codes, low, begin = np.zeros((*tiles.shape[:3], TILE_K, TILE_N), np.uint8), 0, 0
        for width in self.widths:
            end = begin + TILE * width // 8
            words = tiles[..., begin:end].copy().view("<u4").reshape(*tiles.shape[:3], -1, 1, TILE_N)
            numbers = words >> self.shifts(width)[:, None] & (1 << width) - 1
            codes |= numbers.astype(np.uint8).reshape(codes.shape) << low
            low, begin = low + width, end
        return codes.reshape(*tiles.shape[:3], TILE_K // 2, 2, TILE_N).swapaxes(-1, -2)

    @staticmethod
    def shifts(width: int) -> np.ndarray:
        """Where the codes of a word begin, in bits, of a part of so many bits a code."""
        return (_WORD + width * np.arange(8 // width, dtype=np.uint32)[:, None]).reshape(-1)

    def _scaled(self, values: np.ndarray, header: np.ndarray) -> np.ndarray:
        """What codes [n tile, block, k tile, k pair, n, k of the pair] are worth, given their `decode`d values."""
        scale = self.decode_scale(self._spread(header, "scale"))
        if self.nested:
            scale = self._spread(header, "super_scale").astype(np.float32) * scale
        if self.zero:
            values = values - self._spread(header, "zero").astype(np.float32)
        with np.errstate(over="ignore"):
            values = values * scale
            if self.minimum:
                values = values + self._minimums(header)
            values = values.astype(np.float32)
            return values.astype(_F16).astype(np.float32) if self.terms > 1 else from_bf16(to_bf16(values))

    def _minimums(self, header: np.ndarray) -> np.ndarray:
        """What is added to each element, float32."""
        minimum = self._spread(header, "minimum").astype(np.float32)
        return self._spread(header, "super_minimum").astype(np.float32) * minimum if self.nested else minimum

    def _spread(self, header: np.ndarray, name: str) -> np.ndarray:
        """A part of headers, bytes [n tile, block, bytes], for each element of its block."""
        part = self.parts[name]
        data = header[:, :, part.offset : part.offset + part.bytes]
        numbers = data.copy().view(part.dtype).reshape(*header.shape[:2], -1, TILE_N)
        each = np.repeat(numbers, self.k_per_block // part.groups, 2)
        return each.reshape(*header.shape[:2], self.block_tiles, TILE_K // 2, 2, TILE_N).swapaxes(4, 5)

    def encode(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The codes uint8 [rows, k] and scales f16 [rows, k / k_per_scale] that are nearest to float32 [rows, k].

        The number of largest magnitude of a group is tried at the codes' worths `tried`. Least squares give one more
        scale, for the codes under the best of these. That of least squared error is taken, the first of several.
        """
        x = values.reshape(-1, self.k_per_scale).T
        extreme = np.take_along_axis(x, np.abs(x).argmax(0)[None], 0)[0]
        best = scale = fitted = np.full(x.shape[1], np.inf, np.float32)
        for worth in (*self.tried, None):
            tried = (fitted if worth is None else extreme / np.float32(worth)).astype(np.float16).astype(np.float32)
            level = self._nearest(x, tried)[1]
            error, across, square = (_sum(terms) for terms in ((x - tried * level) ** 2, x * level, level * level))
            better = error < best
            best, scale = np.where(better, error, best), np.where(better, tried, scale)
            fitted = np.where(better, across * _inverse(square), fitted)
        scale = scale + np.float32(0)  # not -0
        codes = self._nearest(x, scale)[0].T.reshape(values.shape)
        return codes.astype(np.uint8), scale.astype(np.float16).reshape(
            len(values), values.shape[1] // self.k_per_scale
        )

    @cached_property
    def worths(self) -> np.ndarray:
        """What each code is worth, without a scale: float32, ascending in every format that has `tried`."""
        return self.decode(np.arange(1 << self.bits, dtype=np.uint8)).astype(np.float32)

    def _nearest(self, x: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The codes nearest to x [k, groups] / scale [groups], and their worths.

        Of two as near the one that is worth less; of codes that count up from a multiple of two, the even one.
        """
        scaled = x * _inverse(scale)
        if self.bits > 4:
            codes = np.rint(np.clip(scaled, self.worths[0], self.worths[-1])) - self.worths[0]
        else:
            codes = np.searchsorted((self.worths[1:] + self.worths[:-1]) / 2, scaled)
        return codes, self.worths[codes.astype(np.intp)]

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

    def keeps(self, transposed: bool) -> bool:
        """Whether a weight that its model sees `transposed` can be packed as it is stored: a scale is not for so many
        of its rows, but for so many k."""
        return not self.turned(transposed) or self.k_per_scale in (0, self.stored.rows_per_scale)

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


def _inverse(x: np.ndarray) -> np.ndarray:
    """1 / x, and 0 for 0."""
    return np.divide(np.float32(1), x, out=np.zeros_like(x), where=x != 0)


def _sum(terms: np.ndarray) -> np.ndarray:
    """The sum over the first axis, one term after the other."""
    total = np.zeros(terms.shape[1:], np.float32)
    for term in terms:
        total += term
    return total
