"""Packs the columns of weights for one thread, some at a time."""

from __future__ import annotations

from dataclasses import replace
from threading import Event

import numpy as np

from ellm.checkpoint.checkpoint import Checkpoint
from ellm.checkpoint.pieces import Piece, cut_pieces, pack_piece
from ellm.kernels.contract import TILE_N
from ellm.kernels.spill import Spill
from ellm.scheduler.contents import WeightEntry
from ellm.system import memory
from ellm.system.errors import InputError

_SCRATCH_BYTES = 1 << 21
_LOOK_BYTES = 32 << 20  # of spill, between looks at the memory that is left


class Packer:
    """Packs parts of matrices; those of formats that hold another one's numbers are packed in that before.

    `stop`: when it is set, nothing more is packed.
    """

    def __init__(self, checkpoint: Checkpoint, spill: Spill, stop: Event):
        self.stop = stop
        self._checkpoint, self._spill = checkpoint, spill
        self._scratch = np.empty(0, np.uint16)
        self._looked = 0

    def begin(self, weight: WeightEntry) -> None:
        """Say which weight or bank `pack` is about."""
        self._weight, self._tiles = weight, weight
        if weight.packed.packs:
            whole = -(-weight.k_tiles // weight.packed.block_tiles) * weight.packed.block_tiles
            self._tiles = replace(weight, format=weight.packed.numbers, k_tiles=whole)
        self._pieces: dict[tuple[int, int], list[Piece]] = {}  # the same for most matrices of a bank

    def pack(self, matrix: int, begin: int, end: int, address: int) -> None:
        """Pack columns [begin, end), whole tiles, of one matrix of the weight, which lies at `address`.

        Raises as `pack_piece` does, and InputError if there is too little memory for the spill.
        """
        if self._weight is self._tiles:
            self._pack_tiles(matrix, begin, end, address)
            return
        format = self._weight.packed
        size = self._tiles.packed.column_bytes(self._tiles.k_tiles)
        most = max(_SCRATCH_BYTES // size, 1)
        if self._scratch.nbytes < most * size:
            self._scratch = np.empty(most * size // 2, np.uint16)
        for tile in range(begin // TILE_N, end // TILE_N, most):
            count = min(most, end // TILE_N - tile)
            tiles = self._scratch[: count * size // 2]
            tiles[:] = 0
            self._pack_tiles(matrix, tile * TILE_N, (tile + count) * TILE_N, tiles.ctypes.data - tile * size)
            if self.stop.is_set():
                return
            self._spill.pack(tiles, address + tile * format.column_bytes(self._weight.k_tiles), format.name)
            self._look()

    def _pack_tiles(self, matrix: int, begin: int, end: int, address: int) -> None:
        if (begin, end) not in self._pieces:
            self._pieces[begin, end] = cut_pieces(self._tiles, begin, end)
        for piece in self._pieces[begin, end]:
            if self.stop.is_set():
                return
            pack_piece(self._checkpoint, self._tiles, piece, matrix, address)

    def _look(self) -> None:
        """Raise InputError if memory is short, from time to time as the spill grows."""
        if self._spill.used < self._looked + _LOOK_BYTES:
            return
        self._looked = self._spill.used
        there = memory.available()
        if there < _LOOK_BYTES:
            raise InputError(
                f"{self._checkpoint.source}: its weights need {memory.readable(self._looked)} more of memory than "
                f"{self._weight.format} has been planned with, {memory.readable(there)} are left"
            )
