"""Rows of panels in memory that all workers share (panel.h), for the NumPy references: what experts multiply.

In whole numbers a row is a cell for each tile of k, their number made even, here always int16 as portable C has it,
then a side for each, of which only the scale is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ellm.kernels import reference_integer
from ellm.kernels.contract import TILE_K
from ellm.kernels.formats import NUMBERED
from ellm.kernels.layout import activation, from_bf16, to_bf16
from ellm.kernels.records import panel_row_bytes

Rounded = np.ndarray | tuple[np.ndarray, np.ndarray]
"""What products read: bf16 numbers, float32 [rows, k]; or whole numbers and scales (`reference_integer.whole`)."""

_CELL = 2 * TILE_K
_SIDE = 16


@dataclass
class Panel:
    """Rows at byte `offset` of an arena, for products with a weight of this format and depth."""

    arena: np.ndarray  # uint8
    offset: int
    k_tiles: int
    format: int  # its number
    activations: int

    def write(self, rows: slice, x: np.ndarray, first: int = 0) -> None:
        """Round x, float32 [rows, n], and store it as columns [first, ..), and zeros up to the end of a tile.

        Of whole numbers rows are written whole.
        """
        padded = np.pad(x, ((0, 0), (0, -(first + x.shape[1]) % TILE_K)))
        if not self.activations:
            self._view(rows, 0, (TILE_K * self.k_tiles,), np.uint16)[:, first : first + padded.shape[1]] = to_bf16(
                padded
            )
            return
        self._cells(rows)[:], self._scales(rows)[:] = reference_integer.whole(
            padded, self.activations, NUMBERED[self.format]
        )

    def read(self, rows: slice, k: int) -> Rounded:
        """Rows of length k."""
        if not self.activations:
            return from_bf16(self._view(rows, 0, (k,), np.uint16))
        return self._cells(rows).astype(np.int64), self._scales(rows).copy()

    def _cells(self, rows: slice) -> np.ndarray:
        return self._view(rows, 0, (self.k_tiles, TILE_K), np.int16)

    def _scales(self, rows: slice) -> np.ndarray:
        cells = _CELL * (self.k_tiles + self.k_tiles % 2)
        return self._view(rows, cells, (self.k_tiles, _SIDE // 4), np.float32)[..., 0]

    def _view(self, rows: slice, at: int, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        kind = np.dtype(dtype)
        stride = panel_row_bytes(self.k_tiles, self.activations) // kind.itemsize
        return activation(self.arena, self.offset + at, (rows.stop, *shape), kind, stride)[rows]
