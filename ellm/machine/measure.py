"""Measures the machine at hand into a `Machine`: rates by the kernels that models run, on all workers at once.

How the workers' cores share sockets, domains and caches comes from /sys; what one core reads from its own domain and
from another, and a word's way between two cores, are measured where such cores are among the workers'. A measurement is
a program of one operator on memory of its own. The machine's speed moves within seconds, so whoever compares measures
anew next to what is compared.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ellm.kernels import contract
from ellm.kernels.contract import SAMPLING, SPLIT, TILE_K, TILE_N
from ellm.kernels.formats import FORMATS, PLAIN, Format
from ellm.kernels.isa import Table
from ellm.kernels.records import RECORDS
from ellm.machine.description import Machine
from ellm.machine.limits import fill, kernel_program, last_level_cache
from ellm.machine.sharing import Sharing
from ellm.scheduler import Executable, Pool, StepInput
from ellm.scheduler.probe_program import TABLE as PROBES
from ellm.scheduler.probe_program import ProbeGroup, one_row, probe_program
from ellm.scheduler.program import Kind, Program
from ellm.scheduler.topology import ROOT
from ellm.system import memory
from ellm.system.memory import Mapping

ROW_BLOCK = 64
K_TILES = 64
SMALL_K_TILES = 16
TASK_TILES = 8
CHAIN = 400
STAMP_NS = 5000
SAMPLED = 1 << 17
NORMS = 16
SECTION = 16 << 20
ROUNDS = 5
PYTHON_US = 300.0  # assumed, as it takes a model to see it
WAKE_EACH_US = 1.0  # assumed: two cores do not show it
RELATIONS = ("near", "far", "socket")  # of two cores, as in `Sharing.pairs`


class Meter:
    """Measures on a pool and on workers of its own; `close` frees these. The pool may not be running steps.

    `root` replaces / where cores are looked up, for tests. Raises InputError if the cores' sockets are unequal.
    """

    def __init__(self, pool: Pool, table: Table, root: Path = ROOT):
        self.pool, self.table, self.sharing = pool, table, Sharing.of(pool.cores, root)
        self.per_socket = self.sharing.per_socket()
        self.single = Pool(cores=pool.cores[:1])
        self.pairs = {relation: Pool(cores=cores) for relation, cores in self.sharing.pairs().items()}
        cache = last_level_cache(pool.cores)
        self.column = PLAIN.column_bytes(K_TILES)
        unit = self.column * TASK_TILES * pool.threads
        self.memory = Mapping(-(-max(256 << 20, 4 * cache) // unit) * unit, "the measurements", huge=True)
        fill(self.memory, pool.placement, 0x11)
        self.n_tiles = self.memory.size // self.column
        self.keys = Mapping(pool.threads * (32 << 20), "keys and values", huge=True)
        self.keys.array.fill(0x11)
        empty = self._chain(pool, [ProbeGroup(1)])
        self.empty = lambda: empty() / 1e6
        self.runs: dict[str, Callable[[], float]] = {
            **self._reads(max(cache // 2, 4 << 20)),
            "stream": self._stream(),
            "matmul": self._linear(pool, ROW_BLOCK, 16 * TASK_TILES * pool.threads),
            "row": self._norm(),
            "sample": self._sample(),
            "tasks": self._chain(pool, [ProbeGroup(2000 * pool.threads)]),
            "step": empty,
            **{relation: self._handover(pair) for relation, pair in (self.pairs or {"near": self.single}).items()},
        }
        self.runs["softmax"] = self._attend(pool)

    def close(self) -> None:
        """Stop the workers and free the memory."""
        for pool in (self.single, *self.pairs.values()):
            pool.close()
        self.memory.close()
        self.keys.close()

    def measure(self, rounds: int = ROUNDS) -> Machine:
        """The machine right now, from so many rounds of all measurements in turn."""
        return self.machine([self.sample() for _ in range(rounds)])

    def sample(self) -> dict[str, float]:
        """One round of all measurements: takes some 50 ms."""
        return {name: run() for name, run in self.runs.items()}

    def machine(self, samples: list[dict[str, float]]) -> Machine:
        """The medians of rates and the least of latencies."""
        least = ("tasks", "step", *RELATIONS)
        found = {
            name: (min if name in least else statistics.median)(sample[name] for sample in samples)
            for name in self.runs
        }
        sockets, cores, domains, caches = self.per_socket
        amx = self.table.isa == "amx"
        own = min(found["read_core"], max(found["read_all"], found["read_core"]) / (sockets * domains))
        return Machine(
            name=f"{_cpu_name()}, measured on {self.pool.threads} cores",
            sockets=sockets,
            cores_per_socket=cores,
            domains_per_socket=domains,
            caches_per_socket=caches,
            capacity_gb=memory.available() / 1e9,
            read_gb_per_s_per_core=own,
            read_gb_per_s_per_domain=max(found["read_all"], found["read_core"]) / (sockets * domains),
            remote_read_gb_per_s_per_core=min(own, found.get("read_remote", own)),
            l2_kib_per_core=self.sharing.l2_bytes / 1024,
            llc_mib_per_cache=self.sharing.last_level_bytes / (1 << 20),
            llc_read_gb_per_s_per_core=max(found["cache"], found["read_core"]),
            amx_bf16_tflops_per_core=found["matmul"] if amx else 0.0,
            vector_bf16_tflops_per_core=found["matmul"] if not amx else found["matmul"] / 16,
            expand_fp8_gb_per_s_per_core=found["fp8"],
            expand_mxfp4_gb_per_s_per_core=found["mxfp4"],
            softmax_gelements_per_s_per_core=found["softmax"],
            row_gelements_per_s_per_core=found["row"],
            sample_gelements_per_s_per_core=found["sample"],
            **latencies(found),
            task_ns=max(1.0, found["tasks"]),
            stream_ns=max(0.0, found["stream"]),
            wake_us=found["step"] / 2,
            wake_each_us=WAKE_EACH_US,
            step_us=found["step"],
            python_us=PYTHON_US,
        )

    def _reads(self, cached: int) -> dict[str, Callable[[], float]]:
        """GB/s of one core from its own domain, from another one, and of all cores; and of a core, from the caches."""
        part = self.n_tiles // self.pool.threads
        found = {
            "read_core": self._linear(self.single, 1, part),
            "read_all": self._linear(self.pool, 1, self.n_tiles),
            "cache": self._linear(self.pool, 1, self._cached_tiles(cached, self.column)),
            "fp8": self._linear(self.pool, 1, self._cached_tiles(4 << 20, self.column // 2), FORMATS["fp8"]),
            "mxfp4": self._linear(self.pool, 1, self._cached_tiles(4 << 20, self.column // 4), FORMATS["mxfp4"]),
        }
        if (remote := self.sharing.remote()) is not None:
            found["read_remote"] = self._linear(self.single, 1, part, begin=remote * part * self.column)
        return found

    def _cached_tiles(self, size: int, column: int) -> int:
        """Column tiles that fill so much of the caches: as many tasks for each worker."""
        unit = TASK_TILES * self.pool.threads
        return max(1, size // column // unit) * unit

    def _linear(
        self, pool: Pool, rows: int, n_tiles: int, format: Format = PLAIN, k_tiles: int = K_TILES, begin: int = 0
    ) -> Callable[[], float]:
        """bf16 [rows] by weights from byte `begin` on: TFLOP/s a core if there are many rows, else GB/s: of the pool if
        the caches do not hold the weights, else of a core."""
        args = {
            "x": 0,
            "x_bf16": 1,
            "x_stride": TILE_K * (k_tiles | 1),  # as in a panel: rows spread over the sets of L1
            "norm": 0,
            "eps": 0.0,
            "k": TILE_K * k_tiles,
            "k_tiles": k_tiles,
            "weight": begin,
            "n_tiles": n_tiles,
            "bias": 0,
            "task_tiles": TASK_TILES,
            "format": format.number,
            "activations": 0,
            "n": TILE_N * n_tiles,
            "out": 1 << 20,
            "out_bf16": 0,
            "out_stride": TILE_N * n_tiles,
            "residual": -1,
        }
        program = _alone("linear", args, self.memory.size, 2 * rows * TILE_N * n_tiles * 4 + (2 << 20))
        executable = pool.load(program, self.table, self.memory.address)
        work = RECORDS["linear"].work(args, rows)
        step = _rows(rows)
        cold = work.weight_bytes > (64 << 20) * pool.threads

        def run() -> float:
            if not cold:
                executable.run(step)
            seconds = self._seconds(executable, step)
            if rows > 1:
                return work.tile_flops / seconds / 1e12 / pool.threads
            return work.weight_bytes / seconds / 1e9 / (1 if cold else pool.threads)

        return run

    def _stream(self) -> Callable[[], float]:
        """ns that a task takes beyond its bytes: the same bytes by many small tasks and by few large ones."""
        pieces = K_TILES // SMALL_K_TILES
        large = self._linear(self.pool, 1, self.n_tiles)
        small = self._linear(self.pool, 1, self.n_tiles * pieces, k_tiles=SMALL_K_TILES)
        more = self.n_tiles // TASK_TILES * (pieces - 1) / self.pool.threads

        def run() -> float:
            gigabytes = self.memory.size / 1e9
            return (gigabytes / small() - gigabytes / large()) / more * 1e9

        return run

    def _attend(self, pool: Pool) -> Callable[[], float]:
        """Scores per nanosecond: what attention to cached keys takes beyond its multiplications."""
        heads, dim = 16, 128
        stride = SPLIT * dim * 2
        args = {
            "q": 0,
            "q_bf16": 1,
            "q_stride": heads * pool.threads * dim,
            "q_head_stride": dim,
            "heads": heads * pool.threads,
            "kv_heads": pool.threads,
            "head_dim": dim,
            "value_dim": dim,
            "values_in_keys": 0,
            "keys": 0,
            "key_stride": 2 * stride,
            "values": stride,
            "value_stride": 2 * stride,
            "block_stride": 0,
            "int8": 0,
            "turns": 0,
            "scale": 0.1,
            "window": 0,
            "window_class": 0,
            "sinks": 0,
            "out": 8 << 20,
            "out_bf16": 1,
            "out_stride": heads * pool.threads * dim,
        }
        rows = 16
        program = _alone("attend", args, 64, SECTION * pool.threads)
        items = replace(program, windows=[0], kv_heads=pool.threads, fold_heads=heads, range_bytes=self.keys.size)
        items.groups["kind"] = Kind.ITEMS
        executable = pool.load(items, self.table, 0)
        step = replace(
            _rows(rows),
            positions=np.arange(SPLIT - rows, SPLIT, dtype=np.int32),
            ranges=np.array([self.keys.address], np.uint64),
        )
        folds = rows * heads // contract.FOLD
        keys = SPLIT * contract.FOLD * folds
        multiply = self.runs["matmul"]

        def run() -> float:
            executable.run(step)
            seconds = self._seconds(executable, step)
            multiplying = keys * 2 * 2 * dim / multiply() / 1e12
            return keys / max(seconds - multiplying, 0.1 * seconds) / 1e9

        return run

    def _norm(self) -> Callable[[], float]:
        """f32 elements of a norm per nanosecond."""
        row = NORMS * 4096
        args: dict[str, Any] = {"x": 0, "x_stride": row, "x_group_stride": 4096, "weight": 0}
        args |= {"out": 1 << 25, "out_bf16": 1, "out_stride": row, "out_group_stride": 4096, "pad": 0}
        args |= {"groups": NORMS, "width": 4096, "eps": 1e-6, "tasks": 1}
        executable = self.single.load(
            _alone("rms_norm", args, self.memory.size, 1 << 26), self.table, self.memory.address
        )
        return self._timed(executable, _rows(ROW_BLOCK), ROW_BLOCK * 4096 * NORMS)

    def _sample(self) -> Callable[[], float]:
        """Logits per nanosecond."""
        program = replace(_alone("sample", {"vocab": SAMPLED}, 64, 4096), vocab=SAMPLED)
        logits = np.random.default_rng(0).standard_normal((1, SAMPLED), np.float32)
        step = StepInput.of([0], logit_row=[0], logits=logits, sampling=np.zeros(1, SAMPLING))
        return self._timed(self.single.load(program, self.table, 0), step, SAMPLED)

    def _timed(self, executable: Executable, step: StepInput, elements: int) -> Callable[[], float]:
        def run() -> float:
            executable.run(step)
            return elements / self._seconds(executable, step) / 1e9

        return run

    def _seconds(self, executable: Executable, step: StepInput) -> float:
        """What a step takes beyond an empty one; never nothing, as either may lose its core to another process."""
        begin = time.perf_counter()
        executable.run(step)
        seconds = time.perf_counter() - begin
        return max(seconds - self.empty(), 0.1 * seconds)

    def _handover(self, pool: Pool) -> Callable[[], float]:
        """ns of a word's way between two workers: a hand-over is counting, signalling, publishing and seeing it."""
        marks = np.zeros((CHAIN, pool.threads, 2), np.int64)
        groups = [ProbeGroup(pool.threads, [i - 1] if i else [], "stamp") for i in range(CHAIN)]
        for group, own in zip(groups, marks, strict=True):
            group.args = {"ns": STAMP_NS, "marks": own.ctypes.data}  # keep busy, and write when they begin and end
        run = self._chain(pool, groups)

        def handover() -> float:
            run()
            return float(np.median(marks[1:, :, 0].max(1) - marks[:-1, :, 1].max(1))) / 4

        return handover

    def _chain(self, pool: Pool, groups: list[ProbeGroup]) -> Callable[[], float]:
        """Of one group of empty tasks: ns of a task; of one task: us of a step."""
        executable, step = pool.load(probe_program(groups), PROBES), one_row()
        tasks = groups[0].tiles

        def run() -> float:
            executable.run(step)
            begin = time.perf_counter()
            executable.run(step)
            seconds = time.perf_counter() - begin
            return seconds * 1e6 if tasks == 1 else seconds * 1e9 * pool.threads / tasks

        return run


def latencies(found: dict[str, float]) -> dict[str, float]:
    """Figures of a machine from the measured ns of each relation; one that was not measured is as the one before it.

    None is less than a nearer one, or than 1 ns.
    """
    known = [found[relation] for relation in RELATIONS if relation in found]
    least, figures = max(1.0, known[0]), {}
    for relation in RELATIONS:
        least = figures[f"{relation}_ns"] = max(least, found.get(relation, least))
    return figures


def _alone(kernel: str, args: dict[str, Any], weights_bytes: int, section: int) -> Program:
    """A program of one operator, of which only `weight` is an address in the measured memory."""
    program = kernel_program(kernel, args, weights_bytes)
    present = {"weight"} & set(contract.weight_fields(kernel))
    places = [[0, contract.weight_fields(kernel)[name]] for name in present]
    return replace(
        program,
        relocations=np.array(places, np.int32).reshape(-1, 2),
        row_block=ROW_BLOCK,
        section_bytes=section,
        scratch_bytes=RECORDS[kernel].scratch_bytes(args, ROW_BLOCK),
        context=SPLIT,
    )


def _rows(count: int) -> StepInput:
    """A step of so many rows of one sequence."""
    return StepInput.of(np.arange(count))


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip().replace('"', "")
    return platform.machine()
