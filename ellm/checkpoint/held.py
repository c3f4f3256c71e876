"""How well numbers fit the fewer bits that they are held in, as seen in a part of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event

import numpy as np

from ellm.checkpoint import Checkpoint, open_checkpoint
from ellm.checkpoint.packer import Packer
from ellm.checkpoint.sources import check_tensors
from ellm.kernels.contract import TILE_N
from ellm.kernels.spill import Spill
from ellm.scheduler.contents import WeightEntry


@dataclass(frozen=True)
class Sample:
    """Counts over blocks of a format."""

    blocks: int
    exceptions: int  # elements that the headers of blocks list
    spilled: int  # blocks that take more than was planned

    def __str__(self) -> str:
        return f"{self.exceptions} exceptions and {self.spilled} spilled blocks in {self.blocks} blocks looked at"


def sample(source: str, weights: Sequence[WeightEntry]) -> Sample:
    """Pack a column tile of each tensor of weights of one format. Raises as `load_weights` does."""
    format, counts = weights[0].packed, np.zeros(3, np.int64)
    with open_checkpoint(source) as checkpoint:
        check_tensors(weights, checkpoint)
        for weight in weights:
            first = {run[0]: run[3] // TILE_N for run in reversed(weight.runs)}
            for tile in sorted(set(first.values())):
                blocks = _column(checkpoint, weight, tile)
                counts += len(blocks), *format.exceptions(blocks)
    return Sample(*counts.tolist())


def _column(checkpoint: Checkpoint, weight: WeightEntry, tile: int) -> np.ndarray:
    """The blocks of one column tile, uint8 [blocks, block_bytes]."""
    format = weight.packed
    size = format.column_bytes(weight.k_tiles)
    count = size // format.block_bytes
    memory = np.zeros(size + count * format.spill_bytes, np.uint8)
    address = memory.ctypes.data
    packer = Packer(checkpoint, Spill(address + size, count * format.spill_bytes), Event())
    packer.begin(weight)
    packer.pack(0, tile * TILE_N, (tile + 1) * TILE_N, address - tile * size)
    return memory[:size].reshape(count, -1)
