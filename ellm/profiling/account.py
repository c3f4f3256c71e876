"""Adds up where the time of steps went: by kind of operator, by core, and on the critical path.

Times are core time divided by the number of workers, so that everything sums to the time that the caller waited.
"""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass

import numpy as np

from ellm.inspection.operator_kinds import OperatorKind
from ellm.profiling.demand import demand
from ellm.profiling.dependencies import Dependencies, Link, StepOrder, critical_path
from ellm.profiling.recorder import Step
from ellm.scheduler.program import Program
from ellm.scheduler.spans import Activity

IDLE = (Activity.WAIT, Activity.STEAL, Activity.PARK)
OUTSIDE = ("prepare", "start", "schedule", "steal", "wait", "park", "end")
"""What a step's time outside of kernels is: the step's tables, until a worker takes part, finding and finishing tasks,
looking for tasks to steal, having nothing to do, sleeping, and until the caller goes on. All but `schedule` is between
moments that were recorded; that is what remains."""
THE_END = "the end of the step"


@dataclass
class KindTotal:
    """What operators of one kind did in all steps of a phase."""

    calls: int = 0  # operators that ran, in all steps
    tasks: int = 0
    stolen: int = 0
    kernel_ns: float = 0
    waited_ns: float = 0  # idle time that ended with a task of this kind
    bytes: float = 0
    flops: float = 0

    def limit(self, read: float, matmul: float) -> tuple[float, str] | None:
        """Which share of the limit that binds them its kernels reached, and that limit's name. Limits are a second's.

        None if they read and multiply nothing.
        """
        if not self.bytes and not self.flops:
            return None
        seconds = self.kernel_ns / 1e9
        return max((self.bytes / seconds / read, "read"), (self.flops / seconds / matmul, "matmul"))


@dataclass
class Account:
    """All steps of one phase. Times in ns are sums over the steps; `cores` has one entry a worker, by activity."""

    steps: list[Step]
    kinds: dict[OperatorKind, KindTotal]
    cores: list[Counter[str]]  # "kernel" and OUTSIDE, in ns of that core
    waits: list[Counter[str]]  # idle ns of each core by the kind of task that ended it, or THE_END
    path: list[Link]  # of the step of median length
    path_step: Step

    @property
    def ns(self) -> int:
        """How long the caller waited for these steps."""
        return sum(step.ns for step in self.steps)

    @property
    def kernel_ns(self) -> float:
        """Time in kernels."""
        return sum(total.kernel_ns for total in self.kinds.values())

    @property
    def outside(self) -> Counter[str]:
        """OUTSIDE of kernels, in ns: the mean of the cores."""
        return Counter({name: sum(core[name] for core in self.cores) / len(self.cores) for name in OUTSIDE})

    @property
    def between_ns(self) -> float:
        """What the caller did before a step, on average; 0 if none came before."""
        gaps = [step.gap_ns for step in self.steps if step.gap_ns is not None]
        return statistics.fmean(gaps) if gaps else 0

    @property
    def accounted(self) -> float:
        """The share of the measured time that the trace tells of."""
        return (self.kernel_ns + self.outside.total()) / self.ns


class Accountant:
    """Accounts for steps of a program by the spans (spans.SPAN) of a trace, of which some may have been dropped."""

    def __init__(self, program: Program, spans: np.ndarray, cores: list[int], dropped: int):
        self.program, self.workers, self.dropped = program, len(cores), dropped
        self.spans = spans[np.argsort(spans["step"], kind="stable")]
        self._steps = self.spans["step"].copy()
        self.dependencies = Dependencies(program)
        self.kind_of = [OperatorKind.of(description) for description in program.operators]
        self.kinds = list(dict.fromkeys(self.kind_of))
        self._kind_number = np.array([self.kinds.index(kind) for kind in self.kind_of])

    def account(self, steps: list[Step]) -> Account:
        """Add up these steps, of which there is one at least."""
        spans = self.spans[np.isin(self._steps, [step.number for step in steps])]
        middle = sorted(steps, key=lambda step: step.ns)[len(steps) // 2]
        return Account(
            steps=steps,
            kinds=self._kinds(steps, spans),
            cores=self._cores(steps),
            waits=self._waits(spans),
            path=self.path(middle),
            path_step=middle,
        )

    def of(self, number: int) -> np.ndarray:
        """The spans of a step."""
        return self.spans[slice(*np.searchsorted(self._steps, (number, number + 1)))]

    def tasks(self, number: int) -> np.ndarray:
        """The spans of a step that tell of tasks."""
        spans = self.of(number)
        return spans[spans["what"] <= Activity.STOLEN]

    def task_counts(self, number: int) -> np.ndarray:
        """Tasks that each operator ran in a step."""
        return np.bincount(self.tasks(number)["op"], minlength=len(self.kind_of))

    def order(self, number: int) -> StepOrder:
        """What the tasks of a step waited for."""
        return StepOrder(self.dependencies, self.tasks(number))

    def path(self, step: Step) -> list[Link]:
        """The critical path of a step."""
        return critical_path(self.order(step.number), step.begin_ns)

    def _kinds(self, steps: list[Step], spans: np.ndarray) -> dict[OperatorKind, KindTotal]:
        tasks = spans[spans["what"] <= Activity.STOLEN]
        idle = spans[np.isin(spans["what"], IDLE) & (spans["op"] >= 0)]
        kernel, waited = self._sum(tasks, _lengths(tasks)), self._sum(idle, _lengths(idle))
        count, stolen = self._sum(tasks, np.ones(len(tasks))), self._sum(tasks, tasks["what"] == Activity.STOLEN)
        totals = [
            KindTotal(0, int(count[i]), int(stolen[i]), kernel[i] / self.workers, waited[i] / self.workers)
            for i in range(len(self.kinds))
        ]
        for step in steps:
            ran = self.task_counts(step.number)
            for op, (size, flops) in enumerate(zip(*demand(self.program, step, ran), strict=True)):
                total = totals[self._kind_number[op]]
                total.calls += bool(ran[op])
                total.bytes += size
                total.flops += flops
        return {kind: total for kind, total in zip(self.kinds, totals, strict=True) if total.tasks}

    def _sum(self, spans: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Values of spans by kind of operator."""
        return np.bincount(self._kind_number[spans["op"]], weights=values, minlength=len(self.kinds))

    def _waits(self, spans: np.ndarray) -> list[Counter[str]]:
        """For each worker, the length of its idle spells by what ended them."""
        idle = spans[np.isin(spans["what"], IDLE)]
        kind = np.where(idle["op"] >= 0, self._kind_number[idle["op"]], len(self.kinds))
        names = [*(kind.name for kind in self.kinds), THE_END]
        waits: list[Counter[str]] = [Counter() for _ in range(self.workers)]
        for worker, number, ns in zip(idle["worker"].tolist(), kind.tolist(), _lengths(idle).tolist(), strict=True):
            waits[worker][names[number]] += ns
        return waits

    def _cores(self, steps: list[Step]) -> list[Counter[str]]:
        """For each worker, what each step's time was."""
        cores: list[Counter[str]] = [Counter() for _ in range(self.workers)]
        for step in steps:
            own = self.of(step.number)
            (prepared,) = own[own["what"] == Activity.PREPARE]["end_ns"].tolist() or (step.begin_ns,)
            for worker, core in enumerate(cores):
                core.update(_times(own[own["worker"] == worker], step, prepared))
        return cores


def _times(spans: np.ndarray, step: Step, prepared: int) -> dict[str, int]:
    """What one worker did in one step; without a record of its part in it, it slept through."""
    sums = {what: int(_lengths(spans[spans["what"] == what]).sum()) for what in Activity}
    joined = spans[spans["what"] == Activity.JOIN]
    found = {
        "kernel": sums[Activity.TASK] + sums[Activity.STOLEN],
        "steal": sums[Activity.STEAL],
        "wait": sums[Activity.WAIT],
        "park": sums[Activity.PARK],
        "prepare": prepared - step.begin_ns,
    }
    if not len(joined):
        return found | {"start": step.end_ns - prepared}
    begin, end = int(joined["start_ns"][0]), int(joined["end_ns"][0])
    within = found["kernel"] + found["steal"] + found["wait"] + found["park"]
    return found | {"start": begin - prepared, "schedule": end - begin - within, "end": step.end_ns - end}


def _lengths(spans: np.ndarray) -> np.ndarray:
    return spans["end_ns"] - spans["start_ns"]


def path_kinds(account: Account, kind_of: list[OperatorKind]) -> tuple[Counter[OperatorKind], int, int]:
    """Of the critical path: ns in kernels by kind, ns between tasks, and ns after its last task."""
    found: Counter[OperatorKind] = Counter()
    for link in account.path:
        found[kind_of[link.task["op"]]] += int(link.task["end_ns"] - link.task["start_ns"])
    gaps = sum(link.gap_ns for link in account.path)
    return found, gaps, account.path_step.ns - gaps - found.total()


def median_ns(steps: list[Step]) -> float:
    """The length of a step."""
    return statistics.median(step.ns for step in steps)
