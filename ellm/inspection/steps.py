"""What a step of a program runs: its tasks, its events and its longest chain of dependencies, without running it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ellm.kernels.contract import SAMPLING
from ellm.scheduler import StepInput, StepTables
from ellm.scheduler.program import Program
from ellm.scheduler.walk import Node, What, moments


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
        """What happens, and what every group and event waited for longest."""
        depth: dict[Node, int] = {}  # tasks on the longest chain up to the end of a group, or to an event
        last: dict[int, tuple[int, bool, int]] = {}  # the last signal of an event: tasks before it, and by whom
        cause: dict[Node, Node] = {}
        fired = 0
        for what, number, by in moments(self.program, self.counts, _Even(self)):
            before = depth[by] if by else 0
            if what is What.PUBLISHED:
                depth["group", number] = before
                if by:
                    cause["group", number] = by
            elif what is What.RUN:
                depth["group", number] += 1
            elif what is What.SIGNALLED:
                assert by
                found = before, by[0] == "group", -by[1]  # the order of signals that are as late must not matter
                if number not in last or found > last[number]:
                    last[number], cause["event", number], depth["event", number] = found, by, before
            else:
                fired += 1
        end: Node = ("event", self.program.end)
        path = [end]
        while path[-1] in cause:
            path.append(cause[path[-1]])
        return WalkedStep(fired, path[::-1], depth[end])


class _Even:
    """Rows that go to as many experts as can be."""

    def __init__(self, step: Step):
        self.step, self.program = step, step.program

    def tasks(self, group: int) -> int:
        """Tasks of a group of experts."""
        return int(self.step.tasks[group])

    def woken(self, wake: int) -> list[int]:
        """The groups of the experts that are hit."""
        first = int(self.program.wakes["first"][wake])
        operator = self.program.operators[self.program.groups["op"][first]]
        return list(range(first, first + min(operator.experts, self.step.rows * operator.top_k)))


def _step_counts(program: Program, rows: int, workers: int) -> np.ndarray:
    """counts[kind, block] of the step."""
    slots, positions = np.divmod(np.arange(rows), program.context)
    sampling = np.zeros(1, SAMPLING)
    step = StepInput.of(positions, slots=slots, logit_row=[rows - 1], vocab=program.vocab, sampling=sampling)
    return StepTables(program, workers).fill(step).counts
