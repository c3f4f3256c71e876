"""What a step of a program would take on a machine that is only described.

A discrete-event simulation of the same program under the rules of worker.pyx: home slices, each claimed from its front;
half of what is left stolen from the back, nearest victim first; events, groups without tasks, and experts that a step
wakes. A task takes the longer of its bytes / its share of the bandwidth and its computing meanwhile, and what it
computes before or after; `StepWork` has the figures. The readers of a memory domain share its bandwidth equally. Words
that workers share cost the latency between their cores.

Weights lie with the workers where they are at home, keys and values in the domain to which their block is dealt. A
worker that waits reads ahead what it will be given next. Not modelled: TLBs, contention for the log, and two readers of
one cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ellm.scheduler.crews import Crews
from ellm.scheduler.program import Lists, Program
from ellm.scheduler.simulation import Simulation

IN_DOMAIN = -2  # for domain 0, and so on


@dataclass
class Workers:
    """Workers, one a core, on a machine. Rates are in bytes per nanosecond (GB/s), times in nanoseconds."""

    domain_of: np.ndarray  # int32 [workers]: memory domain
    cache_of: np.ndarray  # int32 [workers]: last level cache
    socket_of: np.ndarray  # int32 [workers]
    crews: Crews
    domains: int
    domain_rate: float  # that a domain's memory delivers to all of its readers
    core_rate: float  # that one core can read
    remote_rate: float  # the same from another domain
    cache_rate: float  # that one core reads from the last level cache
    cache_bytes: float  # of one last level cache
    fetch_bytes: float  # most that a worker which waits reads ahead
    task_ns: float  # between two tasks of a slice
    stream_ns: float  # until a task that reads memory reads at full speed
    near_ns: float  # for a word to get from one core to another of the same last level cache,
    far_ns: float  # of the same socket,
    socket_ns: float  # of another
    spin_ns: float  # a worker watches for so long before it sleeps in a step,
    linger_ns: float  # and between two
    gap_ns: float  # between two steps
    wake_ns: float  # until it runs once it is woken
    wake_each_ns: float  # that each of those it wakes takes a waker, one after the other

    @property
    def count(self) -> int:
        """Number of workers."""
        return len(self.domain_of)

    @property
    def read_rate(self) -> float:
        """Bytes per nanosecond that all of them read from memory together at most."""
        return float(np.minimum(np.bincount(self.domain_of) * self.core_rate, self.domain_rate).sum())


@dataclass
class StepWork:
    """The tasks of one step. A group has `count` items of `tiles` tasks each; the tasks of an item are alike.

    An item is a row block, a piece of the step, an item of attention, a sampled row, or a row tile of an expert.
    """

    count: np.ndarray  # int32 [groups]
    rows: np.ndarray  # int64 [groups]: of an expert; 0: no expert's
    row_blocks: int  # that have rows
    needed: np.ndarray  # int32 [events]: signals in this step; of joins, whatever
    woken: Lists  # wake -> groups
    item_begin: np.ndarray  # int64 [groups]: its first item
    item_key: np.ndarray  # int64 [items]: what task i reads is called item_key + i; -1: nothing that is ever read again
    item_bytes: np.ndarray  # float64 [items]: of weights, keys and values that a task reads
    item_ns: np.ndarray  # float64 [items]: computing of a task while it reads
    item_more_ns: np.ndarray  # float64 [items]: and before or after
    item_panel_ns: np.ndarray  # float64 [items]: more of the latter in a worker's first task of the item
    item_home: np.ndarray
    """float64 [items]: what its tasks read lies with the workers from this share of them on, divided among the tasks in
    order; 0: with the tasks' home workers, -1: with whoever reads it, IN_DOMAIN - d: in domain d."""
    keys: int


@dataclass
class CacheState:
    """What the last level caches hold; they go from one step to the next if the same object is used."""

    key_cache: np.ndarray  # int32 [keys]: the cache that read it last, or -1
    key_at: np.ndarray  # float64 [keys]: how much that had been filled with by then
    filled: np.ndarray  # float64 [caches]

    @staticmethod
    def empty(work: StepWork, workers: Workers) -> CacheState:
        """Caches that hold nothing of the step's."""
        caches = int(workers.cache_of.max()) + 1
        return CacheState(np.full(work.keys + 1, -1, np.int32), np.zeros(work.keys + 1), np.zeros(caches))


@dataclass
class SimulatedStep:
    """What a simulated step did. Times in nanoseconds from its start."""

    ns: float
    tasks: np.ndarray  # int64 [workers]
    steals: np.ndarray  # int64 [workers]
    kernel_ns: np.ndarray  # float64 [workers]: time in kernels
    memory_bytes: float
    cached_bytes: float  # that came from a cache instead
    published: np.ndarray  # float64 [groups]; nan: never
    done: np.ndarray  # float64 [groups]
    cause: np.ndarray  # int32 [groups]: the group whose end published it, -1: the start of the step
    last: int  # the group that ended the step
    record: list[tuple[int, int, int, float, float]]  # (worker, group, index, begin, end) of each task, if asked for

    @property
    def waiting(self) -> float:
        """The share of the workers' time that was not spent in kernels."""
        return 1 - float(self.kernel_ns.sum()) / (self.ns * len(self.kernel_ns))

    def critical_path(self) -> list[tuple[int, float]]:
        """Groups, each published by the end of the one before, the last of which ended the step: (group, ns)."""
        path = []
        group = self.last
        while group >= 0:
            path.append((group, float(self.done[group] - self.published[group])))
            group = int(self.cause[group])
        return path[::-1]


def simulate(
    program: Program, work: StepWork, workers: Workers, caches: CacheState | None = None, *, record: bool = False
) -> SimulatedStep:
    """Run one step in simulated time. Raises RuntimeError if it never ends."""
    simulation = Simulation(program, work, workers, caches or CacheState.empty(work, workers), record)
    ns, tasks = simulation.run()
    return SimulatedStep(
        ns=ns,
        tasks=simulation.tasks,
        steals=simulation.steals,
        kernel_ns=simulation.kernel_ns,
        memory_bytes=simulation.memory_bytes,
        cached_bytes=simulation.cached_bytes,
        published=simulation.published_at,
        done=simulation.done_at,
        cause=simulation.cause,
        last=simulation.last,
        record=tasks,
    )


def needed_signals(program: Program, counts: np.ndarray) -> np.ndarray:
    """int32 [events]: the signals that each event needs in a step with these counts[kind, block]."""
    needed = program.events["needed"].astype(np.int32)
    active = np.count_nonzero(counts, axis=1)
    dynamic = program.events["dynamic"]
    return needed + np.where(dynamic >= 0, active[dynamic], 0).astype(np.int32)
