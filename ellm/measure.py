"""Measures the machine at hand into a `Machine`: rates by the kernels that models run, on all workers at once.

A measurement is a program of one operator on memory of its own. The machine's speed moves within seconds, so whoever
compares measures anew next to what is compared.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ellm import memory
from ellm.kernels import contract
from ellm.kernels.contract import FORMATS, SAMPLING, SPLIT
from ellm.kernels.isa import Table
from ellm.limits import ONE_ROW, last_level_cache, probe_program
from ellm.machine import Machine
from ellm.memory import Mapping
from ellm.scheduler import Pool, StepInput, topology
from ellm.scheduler.probe_program import TABLE as PROBES
from ellm.scheduler.probe_program import ProbeGroup, one_row
from ellm.scheduler.probe_program import probe_program as chain_program
from ellm.scheduler.program import Kind, Program

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


class Meter:
    """Measures on a pool and on one worker of its own; `close` frees both. `workers` may not be running steps."""

    def __init__(self, pool: Pool, table: Table):
        self.pool, self.table = pool, table
        self.single = Pool(cores=pool.cores[:1])
        cache = last_level_cache(pool.cores)
        column = contract.column_bytes(FORMATS["bf16"], K_TILES)
        unit = column * TASK_TILES * pool.threads
        self.memory = Mapping(-(-max(256 << 20, 4 * cache) // unit) * unit, "the measurements", huge=True)
        _fill(self.memory, pool.cores)
        self.n_tiles = self.memory.size // column
        self.keys = Mapping(pool.threads * (32 << 20), "keys and values", huge=True)
        self.keys.array.fill(0x11)
        self.marks = np.zeros((CHAIN, pool.threads, 2), np.int64)
        empty = self._chain([ProbeGroup(1)])
        self.empty = lambda: empty() / 1e6
        self.runs: dict[str, Callable[[], float]] = {
            "read_core": self._linear(self.single, 1, self.n_tiles // pool.threads),
            "read_all": self._linear(pool, 1, self.n_tiles),
            "stream": self._stream(),
            "matmul": self._linear(pool, ROW_BLOCK, 16 * TASK_TILES * pool.threads),
            "cache": self._linear(pool, 1, self._cached_tiles(max(cache // 2, 4 << 20), column)),
            "fp8": self._linear(pool, 1, self._cached_tiles(4 << 20, column // 2), "fp8"),
            "mxfp4": self._linear(pool, 1, self._cached_tiles(4 << 20, column // 4), "mxfp4"),
            "row": self._norm(),
            "sample": self._sample(),
            "tasks": self._chain([ProbeGroup(2000 * pool.threads)]),
            "handover": self._chain(self._stamped()),
            "step": empty,
        }
        self.runs["softmax"] = self._attend(pool)

    def close(self) -> None:
        """Stop the worker and free the memory."""
        self.single.close()
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
        least = ("tasks", "handover", "step")
        found = {
            name: (min if name in least else statistics.median)(sample[name] for sample in samples)
            for name in self.runs
        }
        nodes = topology.numa_nodes()
        used = [node for node, cores in nodes.items() if set(cores) & set(self.pool.cores)]
        caches = {last[-1].cores for core in self.pool.cores if (last := topology.caches(core))}
        own = [cache.size for cache in topology.caches(self.pool.cores[0]) if cache.level == 2]
        amx = self.table.isa == "amx"
        core = found["read_core"]
        all_domains = max(found["read_all"], core)
        latency = max(1.0, found["handover"] / 4)  # counting, signalling, publishing and seeing it are one each
        return Machine(
            name=f"{_cpu_name()}, measured on {self.pool.threads} cores",
            sockets=1,
            cores_per_socket=self.pool.threads,
            domains_per_socket=len(used),
            caches_per_socket=max(1, len(caches)),
            capacity_gb=memory.available() / 1e9,
            read_gb_per_s_per_core=min(core, all_domains / len(used)),
            read_gb_per_s_per_domain=all_domains / len(used),
            remote_read_gb_per_s_per_core=min(core, all_domains / len(used)),
            l2_kib_per_core=own[0] / 1024 if own else 0.0,
            llc_mib_per_cache=last_level_cache(self.pool.cores) / (1 << 20) / max(1, len(caches)),
            llc_read_gb_per_s_per_core=max(found["cache"], core),
            amx_bf16_tflops_per_core=found["matmul"] if amx else 0.0,
            vector_bf16_tflops_per_core=found["matmul"] if not amx else found["matmul"] / 16,
            expand_fp8_gb_per_s_per_core=found["fp8"],
            expand_mxfp4_gb_per_s_per_core=found["mxfp4"],
            softmax_gelements_per_s_per_core=found["softmax"],
            row_gelements_per_s_per_core=found["row"],
            sample_gelements_per_s_per_core=found["sample"],
            near_ns=latency,
            far_ns=latency,
            socket_ns=latency,
            task_ns=max(1.0, found["tasks"]),
            stream_ns=max(0.0, found["stream"]),
            wake_us=found["step"] / 2,
            step_us=found["step"],
        )

    def _cached_tiles(self, size: int, column: int) -> int:
        """Column tiles that fill so much of the caches: as many tasks for each worker."""
        unit = TASK_TILES * self.pool.threads
        return max(1, size // column // unit) * unit

    def _linear(
        self, pool: Pool, rows: int, n_tiles: int, format: str = "bf16", k_tiles: int = K_TILES
    ) -> Callable[[], float]:
        """bf16 [rows] by weights: TFLOP/s a core if there are many rows, else GB/s, of all cores if they are many."""
        args = {
            "x": 0,
            "x_bf16": 1,
            "x_stride": 32 * (k_tiles | 1),  # as in a panel: rows spread over the sets of L1
            "norm": 0,
            "eps": 0.0,
            "k": 32 * k_tiles,
            "k_tiles": k_tiles,
            "weight": 0,
            "n_tiles": n_tiles,
            "bias": 0,
            "task_tiles": TASK_TILES,
            "format": FORMATS[format],
            "n": 16 * n_tiles,
            "out": 1 << 20,
            "out_bf16": 0,
            "out_stride": 16 * n_tiles,
            "residual": -1,
        }
        program = _alone("linear", args, self.memory.size, 2 * rows * 16 * n_tiles * 4 + (2 << 20))
        executable = pool.load(program, self.table, self.memory.address)
        flops, size = contract.cost("linear", args, rows, 0)
        step = _rows(rows)
        cold = size > (64 << 20) * pool.threads

        def run() -> float:
            if not cold:
                executable.run(step)
            begin = time.perf_counter()
            executable.run(step)
            seconds = time.perf_counter() - begin - self.empty()
            if rows > 1:
                return flops / seconds / 1e12 / pool.threads
            return size / seconds / 1e9 / (1 if cold else pool.threads)

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
            "scale": 0.1,
            "window": 0,
            "window_class": 0,
            "sinks": 0,
            "out": 8 << 20,
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
            begin = time.perf_counter()
            executable.run(step)
            seconds = time.perf_counter() - begin - self.empty()
            multiplying = keys * 2 * 2 * dim / multiply() / 1e12
            return keys / max(seconds - multiplying, 0.1 * seconds) / 1e9

        return run

    def _norm(self) -> Callable[[], float]:
        """f32 elements of a norm per nanosecond."""
        args: dict[str, Any] = {"x": 0, "weight": 0, "out": 1 << 25, "out_bf16": 1, "out_stride": NORMS * 4096}
        args |= {"groups": NORMS, "width": 4096, "eps": 1e-6}
        executable = self.single.load(
            _alone("rms_norm", args, self.memory.size, 1 << 26), self.table, self.memory.address
        )
        return self._timed(executable, _rows(ROW_BLOCK), ROW_BLOCK * 4096 * NORMS)

    def _sample(self) -> Callable[[], float]:
        """Logits per nanosecond."""
        program = replace(_alone("sample", {"vocab": SAMPLED}, 64, 4096), vocab=SAMPLED)
        step = replace(
            ONE_ROW,
            logit_row=np.zeros(1, np.int32),
            logits=np.random.default_rng(0).standard_normal((1, SAMPLED), np.float32),
            sampling=np.zeros(1, SAMPLING),
            sampled=np.zeros(1, np.int32),
            logprob=np.zeros(1, np.float32),
        )
        return self._timed(self.single.load(program, self.table, 0), step, SAMPLED)

    def _timed(self, executable: Any, step: StepInput, elements: int) -> Callable[[], float]:
        def run() -> float:
            executable.run(step)
            begin = time.perf_counter()
            executable.run(step)
            return elements / (time.perf_counter() - begin - self.empty()) / 1e9

        return run

    def _stamped(self) -> list[ProbeGroup]:
        """Groups one after the other of one task a worker, which keep busy and write when they begin and end."""
        groups = [ProbeGroup(self.pool.threads, [i - 1] if i else [], "stamp") for i in range(CHAIN)]
        for group, marks in zip(groups, self.marks, strict=True):
            group.args = {"ns": STAMP_NS, "marks": marks.ctypes.data}
        return groups

    def _chain(self, groups: list[ProbeGroup]) -> Callable[[], float]:
        """Empty tasks: ns of a task; stamped: ns from a group's end to the next's start; one task: us of a step."""
        executable, step = self.pool.load(chain_program(groups), PROBES), one_row()
        stamped, tasks = len(groups) > 1, groups[0].tiles

        def run() -> float:
            executable.run(step)
            begin = time.perf_counter()
            executable.run(step)
            seconds = time.perf_counter() - begin
            if stamped:
                return float(np.median(self.marks[1:, :, 0].max(1) - self.marks[:-1, :, 1].max(1)))
            return seconds * 1e6 if tasks == 1 else seconds * 1e9 * self.pool.threads / tasks

        return run


def _alone(kernel: str, args: dict[str, Any], weights_bytes: int, section: int) -> Program:
    """A program of one operator, of which only `weight` is an address in the measured memory."""
    program = probe_program(kernel, args, weights_bytes)
    present = {"weight"} & set(contract.weight_fields(kernel))
    places = [[0, contract.weight_fields(kernel)[name]] for name in present]
    return replace(
        program,
        relocations=np.array(places, np.int32).reshape(-1, 2),
        row_block=ROW_BLOCK,
        section_bytes=section,
        scratch_bytes=contract.scratch_bytes(kernel, args, ROW_BLOCK),
        context=SPLIT,
    )


def _rows(count: int) -> StepInput:
    """A step of so many rows of one sequence."""
    return replace(
        ONE_ROW,
        tokens=np.zeros(count, np.int32),
        positions=np.arange(count, dtype=np.int32),
        slots=np.zeros(count, np.int32),
    )


def _fill(mapping: Mapping, cores: list[int]) -> None:
    """Write each worker's part from that worker's core, so that its pages lie in that core's memory."""
    parts = np.array_split(mapping.array, len(cores))

    def fill(core: int, part: np.ndarray) -> None:
        os.sched_setaffinity(0, {core})  # of this thread alone
        part.fill(0x11)

    with ThreadPoolExecutor(len(cores)) as threads:
        list(threads.map(fill, cores, parts))


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip().replace('"', "")
    return platform.machine()
