"""bf16 in 12 bits, exactly: of a block's high bytes (the sign and the upper seven bits of the exponent) few differ.

A block is a header, then tiles. The header has 16 high bytes, and those elements that have none of these, up to
`PATCHES` of them, by place in the expanded block. A tile is cut into groups of four rows, or 128 elements: the low
bytes of rows 0 and 1, those of rows 2 and 3, and as many bytes of codes, which say which high byte it is; rows 0 and 1
have the lower halves. Two rows stand in turn there, eight elements of each, as interleaving of bytes wants them.

A block with more exceptions is *wide*: its codes are the lower halves of its high bytes. The upper ones, laid out as
codes, are in a spill behind all weights, whose distance from the block is in the header.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ellm.kernels.contract import TILE, TILE_K, TILE_N
from ellm.kernels.format import Format
from ellm.kernels.layout import from_bf16, memory

HEADER = np.dtype(
    {
        "names": ["high", "patches", "place", "patch", "distance"],
        "formats": [("u1", 16), "u1", ("<u2", 15), ("u1", 15), "<i8"],
        "offsets": [0, 16, 18, 48, 24],  # a wide block has its distance where others have places
        "itemsize": 64,
    }
)
PATCHES = 15
WIDE = 255
"""Instead of a number of patches."""
_LINE = 64


@dataclass(frozen=True, eq=False)
class HighBytes(Format):
    """The format, of blocks of `k_per_block` k."""

    @property
    def header_bytes(self) -> int:
        """Bytes of a header."""
        return HEADER.itemsize

    @property
    def spill_bytes(self) -> int:
        """Bytes that a wide block has in the spill."""
        return self.block_tiles * TILE // 2

    @property
    def stored_bits(self) -> float:
        """Bits of a weight in memory, with its share of a header."""
        return 8 * self.block_bytes / (self.block_tiles * TILE)

    def exceptions(self, blocks: np.ndarray) -> tuple[int, int]:
        """How many elements of packed blocks, uint8 [n, block_bytes], are patches, and how many blocks are wide."""
        patches = blocks[:, : HEADER.itemsize].copy().view(HEADER)["patches"]
        return int(patches[patches != WIDE].sum()), int((patches == WIDE).sum())

    def weight(self, address: int, n_tiles: int, k_tiles: int) -> np.ndarray:
        """As `Format.weight`, with what the weight has in a spill."""
        count = n_tiles * self.column_bytes(k_tiles) // self.block_bytes
        blocks = memory(address, (count, self.block_bytes), np.uint8)
        headers = blocks[:, : HEADER.itemsize].copy().view(HEADER)[:, 0]
        groups = blocks[:, HEADER.itemsize :].reshape(count, -1, 3, _LINE)
        codes = _halves(groups[:, :, 2])
        high = np.take_along_axis(headers["high"], codes.reshape(count, -1), 1).reshape(codes.shape)
        for wide in np.flatnonzero(headers["patches"] == WIDE).tolist():
            place = address + wide * self.block_bytes + int(headers["distance"][wide])
            high[wide] = codes[wide] | _halves(memory(place, groups[wide, :, 2].shape, np.uint8)) << 4
        high, low = (_in_rows(lines.reshape(count, -1)) for lines in (high, groups[:, :, :2]))
        for patch in range(PATCHES):
            i = np.flatnonzero((headers["patches"] > patch) & (headers["patches"] != WIDE))
            high[i, headers["place"][i, patch]] = headers["patch"][i, patch]
        tiles = (high.astype(np.uint16) << 8 | low).reshape(n_tiles, -1, TILE_K // 2, TILE_N, 2)
        rows = tiles.transpose(0, 3, 1, 2, 4).reshape(TILE_N * n_tiles, -1)
        return from_bf16(rows[:, : TILE_K * k_tiles])


def _halves(data: np.ndarray) -> np.ndarray:
    """Bytes of codes [..., group, byte] as codes [..., group, line, byte]."""
    return np.stack((data & 15, data >> 4), -2)


def _in_rows(lines: np.ndarray) -> np.ndarray:
    """Bytes of whole blocks, [n, bytes], as the elements come in expanded tiles."""
    return lines.reshape(len(lines), -1, 4, 2, 8).swapaxes(2, 3).reshape(lines.shape)
