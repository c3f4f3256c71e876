"""Packs a checkpoint's weights into the region that a program addresses."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event, Lock
from typing import Any

import numpy as np

from ellm.checkpoint.checkpoint import Checkpoint
from ellm.checkpoint.tensors import READABLE
from ellm.kernels.contract import TILE
from ellm.kernels.errors import InputError
from ellm.kernels.pack import pack_tiles
from ellm.scheduler.program import Program

_TILE_BYTES = 2 * TILE
_COLUMNS = 16  # of a tile
_BLOCK_ELEMENTS = 1 << 18  # read at a time by each thread: with its raw, f32 and bf16 forms some 3 MB

Progress = Callable[[int, int], None]


def load_weights(
    program: Program, checkpoint: Checkpoint, address: int, cores: list[int], progress: Progress | None = None
) -> None:
    """Pack every weight of `program.meta["weights"]` to `address` + its offset, where memory is still zero.

    One thread per worker core, pinned to it, packs the tiles that are this worker's home, so that their pages are
    touched first by their owner. Everything becomes bf16, except vectors and constants, which are f32.

    Args:
        program: what to pack.
        checkpoint: where from.
        address: of at least `program.weights_bytes` of zeroed memory.
        cores: the core of each worker, in order.
        progress: called with bytes packed so far and in all, by one thread at a time.

    Raises:
        InputError: a tensor is missing, of another shape or of an unknown dtype (before anything is read), or a file
            has become unreadable.
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


def check_tensors(weights: list[dict[str, Any]], checkpoint: Checkpoint) -> None:
    """Raise InputError unless the checkpoint has every source of these weights, in its shape and a readable dtype."""
    for weight in weights:
        for source in weight.get("sources", ()):
            tensor = checkpoint.tensors.get(source["name"])
            if tensor is None:
                raise InputError(f"{checkpoint.source}: tensor {source['name']} is missing")
            if list(tensor.shape) != list(source["shape"]):
                raise InputError(
                    f"{tensor.path}: {tensor}: shape is {list(tensor.shape)}, "
                    f"the configuration needs {list(source['shape'])}"
                )
            if tensor.dtype not in READABLE:
                raise InputError(f"{tensor.path}: {tensor}: dtype is {tensor.dtype}, ellm reads {', '.join(READABLE)}")


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
    weight: dict[str, Any],
    checkpoint: Checkpoint,
    address: int,
    worker: int,
    workers: int,
    stop: Event,
    report: _Report,
) -> None:
    """Pack the column tiles of one weight that belong to this worker."""
    tasks = -(-weight["n_tiles"] // weight["task_tiles"])
    first_tile = tasks * worker // workers * weight["task_tiles"]
    last_tile = min(tasks * (worker + 1) // workers * weight["task_tiles"], weight["n_tiles"])
    for source, row, rows, column in _blocks(weight, first_tile * _COLUMNS, last_tile * _COLUMNS):
        if stop.is_set():
            return
        data = checkpoint.read_rows(weight["sources"][source]["name"], row, row + rows)
        pack_tiles(data, address + weight["offset"], column, weight["k"], weight["k_tiles"])
    report.add((last_tile - first_tile) * weight["k_tiles"] * _TILE_BYTES)


def _blocks(weight: dict[str, Any], begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(source, row, rows, column) of the packed columns [begin, end), in blocks small enough to read at once."""
    most = max(_BLOCK_ELEMENTS // max(weight["k"], 1) // _COLUMNS, 1) * _COLUMNS
    for source, first_row, rows, first_column in weight["runs"]:
        column, last = max(first_column, begin), min(first_column + rows, end)
        while column < last:
            count = min(most - column % _COLUMNS, last - column)
            yield source, first_row + column - first_column, count, column
            column += count


def _write_floats(weight: dict[str, Any], checkpoint: Checkpoint, address: int) -> None:
    """Write a vector or a constant as f32."""
    out = np.ctypeslib.as_array((ctypes.c_float * (weight["bytes"] // 4)).from_address(address + weight["offset"]))
    if weight["layout"] == "constant":
        out[: len(weight["values"])] = weight["values"]
        return
    vectors = [checkpoint.read_vector(source["name"]) for source in weight["sources"]]
    for source, first, count, position in weight["runs"]:
        out[position : position + count] = vectors[source][first : first + count]
