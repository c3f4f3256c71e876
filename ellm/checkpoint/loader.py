"""Packs a checkpoint's weights into the region that a program addresses.

What `Program.meta["weights"]` holds: one dict for each packed weight, or for each *bank* of weights of one shape
(experts or heads), whose matrix i lies at offset + i * bank_stride. A key that is absent has its default.

    name         for messages
    layout       "tiles", "vector" (f32) or "constant" (f32)
    offset       bytes in the weights region
    bytes        of all of it; of a bank, experts * bank_stride
    sources      checkpoint tensors, see below
    runs         [source, first row, rows, first column, row step = 1] each: source rows first, first + step, ... become
                 packed columns from first column on; of a vector, elements and positions. What no run names is zero.
                 All matrices of a bank have the same runs.
    values       of a constant: the numbers, instead of sources and runs
  of tiles:
    format       its name in `ellm.kernels.formats`, "bf16" by default
    k, k_tiles, n_tiles, task_tiles
  of a bank:
    experts      matrices. Default 1: no bank.
    bank_stride  bytes from one matrix to the next
    one_group    True: all matrices are the tasks of one group, matrix by matrix, and a worker's home is its share of
                 them all. Default False: a group each, and a worker's home is its share of every matrix.

A source:
    name         of the tensor; with "{expert}" in it, matrix i is the tensor with i in its place
    shape        as stored: [rows, k], [k, rows] if transposed, [rows, groups of k, items] of a format that has groups,
                 [n] of a vector, and [experts, ...] if stacked
    stacked      True: the first axis is the matrix of the bank
    transposed   True: stored as [k, rows]
    head_rows    matrix i begins at stored row i * head_rows: at this row, or at this k if transposed
    first_k      the source's k that becomes the first packed one. Default 0.
    scales       name and shape of the tensor of scales, named and stacked like the source: one for each of the format's
                 `scale_block` of rows and columns

A weight is packed in the format that it is stored in (`TensorInfo.format`), or expanded to bf16 if it has
scales: bf16(float32(code) * scale), which is what kernels compute from codes. If it keeps them, they are per block of
k, so its first k must be the first of a block of the tensor; rows may begin anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event, Lock
from typing import TYPE_CHECKING

import numpy as np

from ellm.checkpoint.checkpoint import Checkpoint
from ellm.checkpoint.pieces import Piece, cut_pieces, pack_piece
from ellm.checkpoint.sources import Entry, check_tensors, tensor_name
from ellm.kernels.contract import TILE_N
from ellm.kernels.layout import memory

if TYPE_CHECKING:
    from ellm.scheduler.program import Program

Progress = Callable[[int, int], None]


def load_weights(
    program: Program, checkpoint: Checkpoint, address: int, cores: list[int], progress: Progress | None = None
) -> None:
    """Pack every weight of `program.meta["weights"]` to `address` + its offset, where memory is still zero.

    One thread per worker core, pinned to it, packs the tiles that are this worker's home, so that their pages are
    touched first by their owner.

    Args:
        program: what to pack.
        checkpoint: where from.
        address: of at least `program.weights_bytes` of zeroed memory.
        cores: the core of each worker, in order.
        progress: called with bytes packed so far and in all, by one thread at a time.

    Raises:
        InputError: a tensor is missing, of another shape or of an unfit dtype (before anything is read), holds NaN, or
            a file has become unreadable.
    """
    weights = program.meta["weights"]
    check_tensors(weights, checkpoint)
    report = _Report(sum(weight["bytes"] for weight in weights), progress)
    stop = Event()

    def work(worker: int) -> None:
        os.sched_setaffinity(0, {cores[worker]})  # of this thread alone
        for weight in weights:
            if weight["layout"] == "tiles":
                _pack_home(weight, checkpoint, address, worker, len(cores), stop, report)
            elif worker == 0:
                _write_floats(weight, checkpoint, address)
                report.add(weight["bytes"])
            if stop.is_set():
                return

    with ThreadPoolExecutor(len(cores), "ellm-load") as pool:
        threads = [pool.submit(work, worker) for worker in range(len(cores))]
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


def _pack_home(
    weight: Entry, checkpoint: Checkpoint, address: int, worker: int, workers: int, stop: Event, report: _Report
) -> None:
    """Pack the column tiles of one weight or bank that belong to this worker."""
    pieces: dict[tuple[int, int], list[Piece]] = {}  # the same for most matrices of a bank
    for matrix, begin, end in _home(weight, worker, workers):
        if (begin, end) not in pieces:
            pieces[begin, end] = cut_pieces(weight, begin, end)
        base = address + weight["offset"] + matrix * weight.get("bank_stride", 0)
        for piece in pieces[begin, end]:
            if stop.is_set():
                return
            pack_piece(checkpoint, weight, piece, matrix, base)
    # Shares are counted so that those of all workers add up to the whole.
    report.add(weight["bytes"] * (worker + 1) // workers - weight["bytes"] * worker // workers)


def _home(weight: Entry, worker: int, workers: int) -> Iterator[tuple[int, int, int]]:
    """(matrix, first column, end column) of what this worker owns, for each matrix of which it owns any."""
    experts, task_columns = weight.get("experts", 1), weight["task_tiles"] * TILE_N
    tasks = -(-weight["n_tiles"] // weight["task_tiles"])
    one_group = weight.get("one_group", False)
    group = tasks * experts if one_group else tasks
    begin, end = group * worker // workers, group * (worker + 1) // workers
    for matrix in range(experts):
        before = matrix * tasks if one_group else 0
        first, last = max(begin - before, 0), min(end - before, tasks)
        if first < last:
            yield matrix, first * task_columns, min(last * task_columns, weight["n_tiles"] * TILE_N)


def _write_floats(weight: Entry, checkpoint: Checkpoint, address: int) -> None:
    """Write vectors or a constant as f32."""
    if weight["layout"] == "constant":
        memory(address + weight["offset"], (len(weight["values"]),), np.float32)[:] = weight["values"]
        return
    experts = weight.get("experts", 1)
    out = memory(address + weight["offset"], (experts, weight["bytes"] // experts // 4), np.float32)
    places = [_elements(weight["runs"], number) for number in range(len(weight["sources"]))]
    for matrix in range(experts):
        for source, (elements, positions) in zip(weight["sources"], places, strict=True):
            stacked = matrix if source.get("stacked") else None
            out[matrix, positions] = checkpoint.read_vector(tensor_name(source, matrix), stacked)[elements]


def _elements(runs: Sequence[Sequence[int]], source: int) -> tuple[np.ndarray, np.ndarray]:
    """Elements of one source of a vector and their positions."""
    own = [(*run, 1)[1:5] for run in runs if run[0] == source]
    elements = [np.arange(first, first + count * step, step) for first, count, _, step in own]
    positions = [np.arange(position, position + count) for _, count, position, _ in own]
    return np.concatenate(elements), np.concatenate(positions)
