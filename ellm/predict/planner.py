"""How fast a model would run on a machine that is only described, by simulating its steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ellm.machine.description import Machine
from ellm.predict import routes
from ellm.predict.roofline import Cost
from ellm.predict.task_costs import Costing, Shape, step_work
from ellm.scheduler.program import Program
from ellm.scheduler.simulate import CacheState, SimulatedStep, simulate
from ellm.system.errors import InputError

COMPARED = ("bf16", "fp8", "mxfp4", "q8", "q4")
"""What a model is also compiled with to show what its weights' size does."""


@dataclass(frozen=True)
class Estimate:
    """A step, or the steps of a prompt. Times in milliseconds."""

    ms: float
    free_ms: float  # if the scheduler cost nothing
    bound_ms: float  # bytes that must be read / bandwidth, or operations / rate, whichever is longer
    waiting: float  # share of the cores' time outside of kernels
    path: Mapping[str, float]  # kind of operator -> ms on the critical path
    memory_gb: float  # read from memory
    cached_gb: float  # read from a cache instead

    @property
    def scheduling(self) -> float:
        """The share of the time that scheduling costs."""
        return max(0.0, 1 - self.free_ms / self.ms)


class Planner:
    """Simulates a model's steps. Raises InputError for a dtype, thread count or batch that cannot be.

    `compiled` gives the program with weights in a dtype (as `--dtype` takes it), and raises InputError if there is no
    such one; None: as they are stored.
    """

    def __init__(
        self,
        compiled: Callable[[str | None], Program],
        machine: Machine,
        *,
        threads: int | None = None,
        dtype: str | None = None,
        batch: int = 1,
        seed: int = 0,
    ):
        program = compiled(dtype)
        if not 1 <= batch <= program.chunk:
            raise InputError(f"batch {batch}: a step has from 1 to {program.chunk} sequences")
        self.compiled, self.dtype, self.program = compiled, dtype, program
        self.machine, self.batch, self.seed = machine, batch, seed
        self.threads = machine.workers_of(threads)
        self.workers = machine.workers(self.threads)
        self.costing = Costing(program, machine, self.threads)
        self.cost = Cost.of(program)

    def changed(self, **changes: Any) -> Planner:
        """The same with another machine, threads or dtype."""
        options = {"machine": self.machine, "threads": self.threads, "dtype": self.dtype, **changes}
        machine = options.pop("machine")
        return Planner(self.compiled, machine, batch=self.batch, seed=self.seed, **options)

    @property
    def weights_gb(self) -> float:
        """Packed weights."""
        return self.program.weights_bytes / 1e9

    def memory_gb(self, context: int) -> float:
        """All memory that is needed to serve the batch with so many positions each."""
        program = self.program
        working = program.working_bytes(self.threads) + self.cache_bytes(context)
        return self.weights_gb + working / 1e9

    def cache_bytes(self, context: int) -> int:
        """Bytes of what the batch keeps with so many positions each."""
        return self.batch * self.program.cache_bytes(context)

    def decode(self, context: int) -> Estimate:
        """One token of each sequence of the batch, after so many."""
        return self._estimate([Shape(self.batch, context, 1)])

    def step_ms(self, shape: Shape) -> float:
        """Milliseconds of one step."""
        return self._estimate([shape]).ms

    def prefill(self, prompt: int) -> Estimate:
        """A prompt of one sequence, in steps of the program's chunk."""
        chunk = self.program.chunk
        return self._estimate([Shape(1, begin, min(chunk, prompt - begin)) for begin in range(0, prompt, chunk)])

    def _estimate(self, shapes: list[Shape]) -> Estimate:
        routed = [routes.draw(self.program, shape.sequences * shape.rows, self.seed) for shape in shapes]
        simulated = [self._run(shape, rows) for shape, rows in zip(shapes, routed, strict=True)]
        free = sum(step[1] for step in simulated) / 1e6
        done = [step[0] for step in simulated]
        path: dict[str, float] = defaultdict(float)
        for step in done:
            for name, ms in self._path(step).items():
                path[name] += ms
        busy = sum(step.kernel_ns.sum() for step in done)
        outside = len(shapes) * (self.machine.step_us + self.machine.python_us) / 1e3
        return Estimate(
            ms=sum(step.ns for step in done) / 1e6 + outside,
            free_ms=free,
            bound_ms=sum(map(self._bound, shapes, routed)),
            waiting=1 - busy / (self.threads * sum(step.ns for step in done)),
            path=path,
            memory_gb=sum(step.memory_bytes for step in done) / 1e9,
            cached_gb=sum(step.cached_bytes for step in done) / 1e9,
        )

    def _run(self, shape: Shape, routed: Mapping[int, np.ndarray]) -> tuple[SimulatedStep, float]:
        """The step, and its ns with a scheduler that costs nothing. What the caches can hold is there from before."""
        work = step_work(self.costing, shape, self.threads, routed)
        free = self.machine.with_free_scheduling().workers(self.threads)
        found = []
        for workers in (self.workers, free):
            caches = CacheState.empty(work, workers)
            step = simulate(self.program, work, workers, caches)
            if step.memory_bytes < 2 * workers.cache_bytes * len(caches.filled):
                step = simulate(self.program, work, workers, caches)
            found.append(step)
        return found[0], found[1].ns

    def _bound(self, shape: Shape, routed: Mapping[int, np.ndarray]) -> float:
        """Milliseconds that the bytes or the operations of a step take at least."""
        end = shape.begin + shape.rows
        size = self.costing.step_bytes(routed) + shape.sequences * self.cost.cache_bytes(end - 1)
        flops = shape.sequences * self.cost.prefill_flops(shape.begin, end)
        cores = self.threads * self.machine.matmul_tflops_per_core
        return max(size / self.workers.read_rate / 1e6, flops / cores / 1e9)

    def _path(self, step: SimulatedStep) -> dict[str, float]:
        found: dict[str, float] = defaultdict(float)
        for group, ns in step.critical_path():
            found[self.program.operators[int(self.program.groups["op"][group])].kind] += ns / 1e6
        return found


def what_helps(planner: Planner, context: int) -> dict[str, float]:
    """What is changed -> the milliseconds of a token then."""
    machine, found = planner.machine, {}
    more = replace(
        machine,
        read_gb_per_s_per_core=1.5 * machine.read_gb_per_s_per_core,
        read_gb_per_s_per_domain=1.5 * machine.read_gb_per_s_per_domain,
        remote_read_gb_per_s_per_core=1.5 * machine.remote_read_gb_per_s_per_core,
    )
    found["1.5 x the memory bandwidth"] = planner.changed(machine=more).decode(context).ms
    cores = machine.cores_per_socket * 3 // 2
    wider = replace(machine, cores_per_socket=cores)
    found["1.5 x the cores"] = planner.changed(machine=wider, threads=planner.threads * 3 // 2).decode(context).ms
    rates: tuple[str, ...] = ("amx_bf16_tflops_per_core", "vector_bf16_tflops_per_core", "row_gelements_per_s_per_core")
    rates += ("softmax_gelements_per_s_per_core", "sample_gelements_per_s_per_core")
    rates += ("expand_fp8_gb_per_s_per_core", "expand_mxfp4_gb_per_s_per_core", "llc_read_gb_per_s_per_core")
    faster = replace(machine, **{name: 1.5 * getattr(machine, name) for name in rates})
    found["1.5 x faster cores"] = planner.changed(machine=faster).decode(context).ms
    found["no cost of scheduling"] = planner.decode(context).free_ms
    for dtype in COMPARED:
        smaller = planner.changed(dtype=dtype)
        if smaller.weights_gb < 0.95 * planner.weights_gb:
            found[f"{dtype} weights"] = smaller.decode(context).ms
    return found
