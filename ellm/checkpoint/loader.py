"""Packs a checkpoint's weights into the region that a program addresses.

`WeightEntry` and `Source` of ellm.scheduler.contents say how each packed weight is made of checkpoint tensors.
A weight is packed in the format that it is stored in (`TensorInfo.format`), or expanded to bf16 if it has
scales: bf16(float32(code) * scale), which is what kernels compute from codes. If it keeps them, they are per block of
k, so its first k must be the first of a block of the tensor; rows may begin anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event
from typing import TYPE_CHECKING

import numpy as np

from ellm.checkpoint.checkpoint import Checkpoint
from ellm.checkpoint.homes import Progress, Report, for_each_worker, home
from ellm.checkpoint.packer import Packer
from ellm.checkpoint.sources import check_tensors, tensor_name
from ellm.kernels.layout import memory
from ellm.kernels.spill import Spill
from ellm.scheduler.contents import Run, WeightEntry

if TYPE_CHECKING:
    from ellm.scheduler.placement import Placement


def load_weights(
    weights: Sequence[WeightEntry],
    checkpoint: Checkpoint,
    address: int,
    placement: Placement,
    progress: Progress | None = None,
    spill: Spill | None = None,
) -> None:
    """Pack every weight to `address` + its offset, where memory is still zero.

    One thread per worker, where the worker is, packs the tiles that are this worker's home, so that their pages are
    touched first by their owner.

    Args:
        weights: what to pack.
        checkpoint: where from.
        address: of zeroed memory, as much as the weights reach over.
        placement: of the workers.
        spill: of `program.spill_bytes`; not needed if those are 0.
        progress: called with bytes packed so far and in all, by one thread at a time.

    Raises:
        InputError: a tensor is missing, of another shape or of an unfit dtype (before anything is read), holds NaN, a
            file has become unreadable, or there is too little memory for the spill.
    """
    check_tensors(weights, checkpoint)
    spill = spill or Spill(0, 0)
    total = sum(weight.bytes for weight in weights)
    checkpoint.read_once(total)
    report = Report(total, progress)

    def work(worker: int, workers: int, stop: Event) -> None:
        packer = Packer(checkpoint, spill, stop)
        for weight in weights:
            if weight.layout == "tiles":
                _pack_home(weight, packer, address, worker, workers, report)
            elif worker == 0:
                _write_floats(weight, checkpoint, address)
                report.add(weight.bytes)
            if stop.is_set():
                return

    for_each_worker(placement, work)


def _pack_home(weight: WeightEntry, packer: Packer, address: int, worker: int, workers: int, report: Report) -> None:
    """Pack the column tiles of one weight or bank that belong to this worker."""
    packer.begin(weight)
    for matrix, begin, end in home(weight, worker, workers):
        packer.pack(matrix, begin, end, address + weight.offset + matrix * weight.bank_stride)
        if packer.stop.is_set():
            return
    report.add_share(weight, worker, workers)


def _write_floats(weight: WeightEntry, checkpoint: Checkpoint, address: int) -> None:
    """Write vectors or a constant as f32."""
    if weight.layout == "constant":
        memory(address + weight.offset, (len(weight.values),), np.float32)[:] = weight.values
        return
    experts = weight.experts
    out = memory(address + weight.offset, (experts, weight.bytes // experts // 4), np.float32)
    places = [_elements(weight.runs, number) for number in range(len(weight.sources))]
    for matrix in range(experts):
        for source, (elements, positions) in zip(weight.sources, places, strict=True):
            stacked = matrix if source.stacked else None
            out[matrix, positions] = checkpoint.read_vector(tensor_name(source, matrix), stacked)[elements]


def _elements(runs: Sequence[Run], source: int) -> tuple[np.ndarray, np.ndarray]:
    """Elements of one source of a vector and their positions."""
    own = [(*run, 1)[1:5] for run in runs if run[0] == source]
    elements = [np.arange(first, first + count * step, step) for first, count, _, step in own]
    positions = [np.arange(position, position + count) for _, count, position, _ in own]
    return np.concatenate(elements), np.concatenate(positions)
