"""What this machine can reach at most: memory read bandwidth and multiplications, measured on a pool's workers."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ellm.kernels import contract
from ellm.kernels.isa import Table
from ellm.kernels.records import RECORDS
from ellm.scheduler import Executable, Pool, StepInput, topology
from ellm.scheduler.placement import Placement
from ellm.scheduler.program import EVENT, GROUP, Kind, Lists, Program
from ellm.system.errors import InputError
from ellm.system.memory import Mapping, available, readable

WINDOW = 0.1  # seconds: the machine's speed moves, so probe and measured work alternate in windows no longer than this
TASKS_PER_WORKER = 32
SHARE_UNIT = 8 * 1024  # a task's share of the memory is a multiple of this
CACHES = 8  # the probe's memory is this many times the last level cache, so that next to nothing is read from it


class Limits:
    """Runs the limits probe on a pool. `close` frees its memory. Raises InputError if that is not there."""

    def __init__(self, pool: Pool, table: Table):
        tasks = TASKS_PER_WORKER * pool.threads
        size = max(256 << 20, CACHES * last_level_cache(pool.cores))
        self._share = -(-size // (tasks * SHARE_UNIT)) * SHARE_UNIT
        if size > (there := available()):
            raise InputError(f"measuring the limits needs {readable(size)} of memory, {readable(there)} are left")
        self._memory = Mapping(tasks * self._share, "the limits probe", huge=True)
        fill(self._memory, pool.placement, 1)
        readers = [
            self._load(pool, table, "probe_read", {"memory": 0, "bytes": self._share, "tasks": tasks, **loop})
            for loop in contract.READ_LOOPS
        ]
        seconds = {reader: statistics.median(self._time(reader) for _ in range(3)) for reader in readers}
        fits = max(1, int(WINDOW / 2 / min(seconds.values())))
        self._readers = sorted(readers, key=lambda reader: seconds[reader])[: min(3, fits)]
        self._bytes = tasks * self._share
        self._repeats = 64
        while True:  # until it fills a quarter of a window
            args = {"repeats": self._repeats, "tasks": tasks}
            self._multiplier = self._load(pool, table, "probe_matmul", args)
            if self._time(self._multiplier) > WINDOW / 8:
                break
            self._repeats *= 2
        self._flops = RECORDS["probe_matmul"].work(args).flops

    def read(self) -> float:
        """Bytes a second that the workers read from memory together: the best of several loops, right now."""
        return self._bytes / min(self._time(reader) for reader in self._readers)

    def matmul(self) -> float:
        """bf16 floating-point operations a second that the workers reach together, right now."""
        return self._flops / self._time(self._multiplier)

    def close(self) -> None:
        """Free the probe's memory."""
        self._memory.close()

    def _load(self, pool: Pool, table: Table, kernel: str, args: dict[str, Any]) -> Executable:
        return pool.load(kernel_program(kernel, args, self._memory.size), table, self._memory.address)

    def _time(self, executable: Executable) -> float:
        begin = time.perf_counter()
        executable.run(ONE_ROW)
        return time.perf_counter() - begin


ONE_ROW = StepInput.of([0])


def fill(mapping: Mapping, placement: Placement, value: int) -> None:
    """Write each worker's part from where the worker is, so that its pages lie in that core's memory."""
    parts = np.array_split(mapping.array, len(placement.cores))

    def write(worker: int) -> None:
        placement.settle(worker)
        parts[worker].fill(value)

    with ThreadPoolExecutor(len(parts)) as threads:
        list(threads.map(write, range(len(parts))))


def last_level_cache(cores: list[int]) -> int:
    """Bytes of the last level caches of these cores together."""
    last = {caches[-1].cores: caches[-1].size for core in cores if (caches := topology.caches(core))}
    return sum(last.values())


def kernel_program(kernel: str, args: dict[str, Any], weights_bytes: int) -> Program:
    """A program of one operator: all of its tasks are published at the start of a step, and the step ends with them."""
    row_block = 16
    return Program(
        kernels=[kernel],
        op_kernel=np.zeros(1, np.int32),
        op_names=[kernel],
        args=contract.pack(kernel, **args)[None],
        relocations=np.array([[0, at] for at in contract.weight_fields(kernel).values()], np.int32).reshape(-1, 2),
        groups=np.array([(0, 0, Kind.ROWS, RECORDS[kernel].tasks(args), 0, 1, -1)], GROUP),
        events=np.array([(1, -1)], EVENT),
        signals=Lists.of([[0]]),
        publishes=Lists.of([[]]),
        triggers=Lists.of([[]]),
        roots=np.zeros(1, np.int32),
        end=0,
        row_block=row_block,
        blocks=1,
        windows=[],
        kv_heads=1,
        fold_heads=1,
        section_bytes=64,
        scratch_bytes=RECORDS[kernel].scratch_bytes(args, row_block),
        partial_floats=0,
        partials=0,
        weights_bytes=weights_bytes,
        range_bytes=0,
        context=contract.SPLIT,
        vocab=1,
    )
