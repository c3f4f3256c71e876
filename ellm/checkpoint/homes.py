"""Which weights are at home with which worker, and threads that are where the workers will be.

What such a thread touches first lies in the memory of its worker, where that will read it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event, Lock
from typing import TYPE_CHECKING

from ellm.kernels.contract import TILE_N
from ellm.scheduler.contents import WeightEntry

if TYPE_CHECKING:
    from ellm.scheduler.placement import Placement

Progress = Callable[[int, int], None]


def home(weight: WeightEntry, worker: int, workers: int) -> Iterator[tuple[int, int, int]]:
    """(matrix, first column, end column) of the tiles that a worker owns, for each matrix of which it owns any."""
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


class Report:
    """Adds up the bytes that the threads have done, and calls `progress` with them and the total."""

    def __init__(self, total: int, progress: Progress | None):
        self._total = total
        self._progress = progress
        self._done = 0
        self._lock = Lock()

    def add(self, count: int) -> None:
        """Of one thread."""
        if self._progress is None:
            return
        with self._lock:
            self._done += count
            self._progress(self._done, self._total)

    def add_share(self, weight: WeightEntry, worker: int, workers: int) -> None:
        """Of what a worker owns of a weight; counted so that the shares of all workers add up to the whole."""
        self.add(weight.bytes * (worker + 1) // workers - weight.bytes * worker // workers)


def for_each_worker(placement: Placement, work: Callable[[int, int, Event], None]) -> None:
    """Call `work` with each worker, their number, and what is set when it need not go on, in threads where they are.

    Raises what the first of them to fail raises.
    """
    workers, stop = len(placement.cores), Event()

    def settled(worker: int) -> None:
        placement.settle(worker)
        work(worker, workers, stop)

    with ThreadPoolExecutor(workers, "ellm-load") as pool:
        threads = [pool.submit(settled, worker) for worker in range(workers)]
        try:
            wait(threads, return_when=FIRST_EXCEPTION)
        finally:  # after a failure or Ctrl-C the others need not go on; after success nobody looks at it
            stop.set()
        for thread in threads:
            thread.result()
