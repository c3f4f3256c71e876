"""Packs a checkpoint's weights into the region that a program addresses.

`WeightEntry` and `Source` of ellm.scheduler.contents say how each packed weight is made of checkpoint tensors.
A weight is packed in the format that it is stored in (`TensorInfo.format`), or expanded to bf16 if it has
scales: bf16(float32(code) * scale), which is what kernels compute from codes. If it keeps them, they are per block of
k, so its first k must be the first of a block of the tensor; rows may begin anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event, Lock
from typing import TYPE_CHECKING

import numpy as np

from ellm.checkpoint.checkpoint import Checkpoint
from ellm.checkpoint.packer import Packer
from ellm.checkpoint.sources import check_tensors, tensor_name
from ellm.kernels.contract import TILE_N
from ellm.kernels.layout import memory
from ellm.kernels.spill import Spill
from ellm.scheduler.contents import Run, WeightEntry

if TYPE_CHECKING:
    from ellm.scheduler.placement import Placement
    from ellm.scheduler.program import Program

Progress = Callable[[int, int], None]


def load_weights(
    program: Program,
    checkpoint: Checkpoint,
    address: int,
    placement: Placement,
    progress: Progress | None = None,
    spill: Spill | None = None,
) -> None:
    """Pack every weight of `program.weights` to `address` + its offset, where memory is still zero.

    One thread per worker, where the worker is, packs the tiles that are this worker's home, so that their pages are
    touched first by their owner.

    Args:
        program: what to pack.
        checkpoint: where from.
        address: of at least `program.weights_bytes` of zeroed memory.
        placement: of the workers.
        spill: of `program.spill_bytes`; not needed if those are 0.
        progress: called with bytes packed so far and in all, by one thread at a time.

    Raises:
        InputError: a tensor is missing, of another shape or of an unfit dtype (before anything is read), holds NaN, a
            file has become unreadable, or there is too little memory for the spill.
    """
    weights = program.weights
    check_tensors(weights, checkpoint)
    spill = spill or Spill(0, 0)
    report = _Report(sum(weight.bytes for weight in weights), progress)
    workers, stop = len(placement.cores), Event()

    def work(worker: int) -> None:
        placement.settle(worker)
        packer = Packer(checkpoint, spill, stop)
        for weight in weights:
            if weight.layout == "tiles":
                _pack_home(weight, packer, address, worker, workers, report)
            elif worker == 0:
                _write_floats(weight, checkpoint, address)
                report.add(weight.bytes)
            if stop.is_set():
                return

    with ThreadPoolExecutor(workers, "ellm-load") as pool:
        threads = [pool.submit(work, worker) for worker in range(workers)]
        try:
            wait(threads, return_when=FIRST_EXCEPTION)
        finally:  # after a failure or Ctrl-C the others need not go on; after success nobody looks at it
            stop.set()
        for thread in threads:
            thread.result()


class _Report:
    """Adds up the bytes that the threads have packed."""

    def __init__(self, total: int, progress: Progress | None):
        self._total = total
        self._progress = progress
        self._done = 0
        self._lock = Lock()

    def add(self, count: int) -> None:
        if self._progress is None:
            return
        with self._lock:
            self._done += count
            self._progress(self._done, self._total)


def _pack_home(weight: WeightEntry, packer: Packer, address: int, worker: int, workers: int, report: _Report) -> None:
    """Pack the column tiles of one weight or bank that belong to this worker."""
    packer.begin(weight)
    for matrix, begin, end in _home(weight, worker, workers):
        packer.pack(matrix, begin, end, address + weight.offset + matrix * weight.bank_stride)
        if packer.stop.is_set():
            return
    # Shares are counted so that those of all workers add up to the whole.
    report.add(weight.bytes * (worker + 1) // workers - weight.bytes * worker // workers)


def _home(weight: WeightEntry, worker: int, workers: int) -> Iterator[tuple[int, int, int]]:
    """(matrix, first column, end column) of what this worker owns, for each matrix of which it owns any."""
    experts, task_columns = weight.experts, weight.task_tiles * TILE_N
    tasks = -(-weight.n_tiles // weight.task_tiles)
    one_group = weight.one_group
    group = tasks * experts if one_group else tasks
    begin, end = group * worker // workers, group * (worker + 1) // workers
    for matrix in range(experts):
        before = matrix * tasks if one_group else 0
        first, last = max(begin - before, 0), min(end - before, tasks)
        if first < last:
            yield matrix, first * task_columns, min(last * task_columns, weight.n_tiles * TILE_N)


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
