"""What a step of a program runs: its tasks, its events and its longest chain of dependencies, without running it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ellm.kernels.contract import SAMPLING
from ellm.scheduler import StepInput, StepTables
from ellm.scheduler.program import Program

Node = tuple[Literal["group", "event"], int]


@dataclass(frozen=True)
class WalkedStep:
    """How a step went: events that fired, and the chain that has most tasks, one of each of its groups."""

    events: int
    critical_path: list[Node]  # from a group that starts with the step to the event that ends it
    length: int  # of the critical path, in tasks; groups on it may have none


class Step:
    """The first `rows` rows of one sequence, the last of which is sampled.

    Routed rows go to experts 0, 1, ... evenly: as many experts as can be are hit.
    """

    def __init__(self, program: Program, rows: int, workers: int):
        self.program = program
        self.rows = rows
        self.counts = _step_counts(program, rows, workers)
        self.tasks = self._tasks()

    def _tasks(self) -> np.ndarray:
        """Tasks of every group."""
        groups, operators = self.program.groups, self.program.operators
        routed = groups["counts"] >= 0
        tasks = self.counts[groups["kind"], np.where(routed, 0, groups["block"])] * groups["tiles"].astype(np.int64)
        experts, top_k = (
            np.array([getattr(one, name) for one in operators])[groups["op"][routed]] for name in ("experts", "top_k")
        )
        number, rows = groups["block"][routed], self.rows * top_k
        hit = np.minimum(experts, rows)
        own = np.where(number < hit, rows // hit + (number < rows % hit), 0)
        tasks[routed] = groups["tiles"][routed] * -(-own // self.program.row_block)
        return tasks

    def walk(self) -> WalkedStep:
        """Publish every group and fire every event as their dependencies allow."""
        return _Walk(self).walk()

    def experts_hit(self, group: int) -> int:
        """How many experts the wake wakes whose first group this is."""
        operator = self.program.operators[self.program.groups["op"][group]]
        return min(operator.experts, self.rows * operator.top_k)


class _Walk:
    """A step in an order that its dependencies allow, with what each group and event waited for longest."""

    def __init__(self, step: Step):
        self.step, self.program = step, step.program
        self.missing = self._signals_needed()
        self.wakes = {int(one["group"]): (int(one["first"]), int(one["join"])) for one in step.program.wakes}
        self.last: dict[int, tuple[int, bool, int]] = {}  # the last signal of an event: tasks before it, and by whom
        self.cause: dict[Node, Node] = {}
        self.ready = [(int(group), 0) for group in step.program.roots]  # groups, and the tasks before them
        self.fired = 0

    def walk(self) -> WalkedStep:
        while self.ready:
            self._run(*self.ready.pop())
        end: Node = ("event", self.program.end)
        path = [end]
        while path[-1] in self.cause:
            path.append(self.cause[path[-1]])
        return WalkedStep(self.fired, path[::-1], self.last[self.program.end][0])

    def _signals_needed(self) -> list[int]:
        """Signals that each event waits for in this step, besides those of experts that are woken."""
        needed, dynamic = self.program.events["needed"].tolist(), self.program.events["dynamic"]
        for number in np.flatnonzero(dynamic >= 0):
            needed[number] += int(np.count_nonzero(self.step.counts[dynamic[number]]))
        return needed

    def _run(self, group: int, before: int) -> None:
        """Run a group that is published, wake experts, and signal."""
        program, tasks = self.program, self.step.tasks[group]
        if not tasks and not program.groups["completes_empty"][group]:
            return
        after = before + bool(tasks)
        if group in self.wakes:
            first, join = self.wakes[group]
            woken = range(first, first + self.step.experts_hit(first))
            self.missing[join] += len(woken)
            self._publish(woken, after, ("group", group))
        signals: list[tuple[int, int, Node]] = [
            (int(event), after, ("group", group)) for event in program.signals[group]
        ]
        while signals:
            event, after, by = signals.pop()
            last = (after, by[0] == "group", -by[1])  # so that the order of signals that are as late does not matter
            if event not in self.last or last > self.last[event]:
                self.last[event], self.cause["event", event] = last, by
            self.missing[event] -= 1
            if self.missing[event] == 0:
                self.fired += 1
                depth = self.last[event][0]
                self._publish(program.publishes[event].tolist(), depth, ("event", event))
                signals += [(int(other), depth, ("event", event)) for other in program.triggers[event]]

    def _publish(self, groups: Iterable[int], before: int, by: Node) -> None:
        for group in groups:
            self.cause["group", group] = by
            self.ready.append((group, before))


def _step_counts(program: Program, rows: int, workers: int) -> np.ndarray:
    """counts[kind, block] of the step."""
    slots, positions = np.divmod(np.arange(rows), program.context)
    sampling = np.zeros(1, SAMPLING)
    step = StepInput.of(positions, slots=slots, logit_row=[rows - 1], vocab=program.vocab, sampling=sampling)
    return StepTables(program, workers).fill(step).counts
