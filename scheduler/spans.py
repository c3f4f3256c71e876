"""What every worker did in the steps of a program, to the nanosecond."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from ellm.scheduler.rings import Rings, clocks

if TYPE_CHECKING:
    from ellm.scheduler.placement import Placement
    from ellm.scheduler.pool import LoadedProgram


class Activity(IntEnum):
    """What a span of a trace tells of. Those before JOIN follow one another on a worker and do not overlap."""

    TASK = 0
    STOLEN = 1  # a task that another worker was to run
    WAIT = 2  # nothing was ready; the span's group is the one that ended it, -1: the step's end did
    STEAL = 3  # a search for tasks that found some
    PARK = 4  # asleep
    JOIN = 5  # the worker's part in the step, within which all of the above lie
    STEP = 6  # the step, from its first root; of the caller
    PREPARE = 7  # the step's tables; of the caller


SPAN = np.dtype(
    [
        ("worker", "i4"),  # the caller's comes after the workers'
        ("core", "i4"),  # -1: the caller
        ("what", "i4"),  # Activity
        ("step", "i8"),  # its number
        ("op", "i4"),  # -1: of no operator, or of several
        ("block", "i4"),
        ("group", "i4"),
        ("index", "i4"),  # of the task in its group; of STEP and PREPARE: the step's rows
        ("start_ns", "i8"),  # as time.perf_counter_ns counts
        ("end_ns", "i8"),
    ]
)


class Trace:
    """Records the steps of an executable while it is open: `with executable.trace() as trace`.

    Each worker has room for `capacity` records, about one a task. When it is full, those to come are `dropped` and
    counted. An executable has one trace at a time. Recording can be paused, and goes on where it was.
    """

    def __init__(self, executable: LoadedProgram, capacity: int):
        self._executable, self._capacity = executable, capacity
        self._rings = Rings(executable.pool.threads + 1, capacity)
        self._touch(executable.pool.placement)
        self._begin = clocks()
        self.resume()

    def _touch(self, placement: Placement) -> None:
        """Touch each worker's ring from that worker's core."""
        workers = len(placement.cores)

        def touch(worker: int) -> None:
            placement.settle(worker)
            self._rings.touch(worker)

        self._rings.touch(workers)  # the caller's
        with ThreadPoolExecutor(workers) as threads:
            list(threads.map(touch, range(workers)))

    def resume(self) -> None:
        """Record the steps from now on."""
        self._executable.record(self._rings)

    def pause(self) -> None:
        """Record no further steps; waits for the one that is under way."""
        self._executable.record(None)

    def clear(self) -> None:
        """Forget what was recorded and dropped so far. Only while paused."""
        self._rings.clear()

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.pause()

    @property
    def dropped(self) -> int:
        """Records for which there was no room."""
        return self._rings.dropped

    @property
    def whole_before(self) -> int | None:
        """The number of the first step of which records may be missing; None: nothing was dropped."""
        if not self.dropped:
            return None
        recorded = map(self._rings.records, range(self._rings.workers))
        return min(int(records["step"][-1]) for records in recorded if len(records) == self._capacity)

    def spans(self) -> np.ndarray:
        """All that was recorded: SPAN [n], worker by worker, each in order. Only while no step runs."""
        cores = [*self._executable.pool.cores, -1]
        moments = (self._begin, clocks())
        return np.concatenate([self._spans_of(worker, core, moments) for worker, core in enumerate(cores)])

    def _spans_of(self, worker: int, core: int, moments: tuple[tuple[int, int], tuple[int, int]]) -> np.ndarray:
        records = self._rings.records(worker)
        records = records[np.argsort(records["begin"], kind="stable")]
        spans = np.zeros(len(records), SPAN)
        spans["worker"], spans["core"] = worker, core
        for name in ("what", "step", "index"):
            spans[name] = records[name]
        spans["start_ns"] = _nanoseconds(records["begin"], *moments)
        spans["end_ns"] = _nanoseconds(records["end"], *moments)
        spans["group"] = self._groups(records)
        groups, known = self._executable.program.groups, spans["group"] >= 0
        for name in ("op", "block"):
            spans[name] = np.where(known, groups[name][spans["group"]], -1)
        return spans

    @staticmethod
    def _groups(records: np.ndarray) -> np.ndarray:
        """The records' groups; of an idle spell that of the task that ended it, in the same step."""
        groups = records["group"].copy()
        tasks = np.flatnonzero(records["what"] <= Activity.STOLEN)
        idle = np.flatnonzero((records["what"] > Activity.STOLEN) & (records["what"] < Activity.JOIN))
        if len(tasks) and len(idle):
            following = np.append(tasks, tasks[-1])[np.searchsorted(tasks, idle)]
            ended = (following > idle) & (records["step"][following] == records["step"][idle])
            groups[idle[ended]] = records["group"][following[ended]]
        return groups


def _nanoseconds(ticks: np.ndarray, first: tuple[int, int], last: tuple[int, int]) -> np.ndarray:
    """Ticks as nanoseconds, by two moments (ticks, nanoseconds) at which both clocks were read."""
    rate = (last[1] - first[1]) / (last[0] - first[0])
    return first[1] + np.rint((ticks - first[0]) * rate).astype(np.int64)
