"""Which tasks a group of tasks waited for, and the chain of tasks that a step took as long as."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ellm.scheduler.program import Program


class Dependencies:
    """The events of a program, seen from the groups that they publish."""

    def __init__(self, program: Program):
        self.program = program
        self.publisher = np.full(len(program.groups), -1)  # event; -1: a root, or woken
        self.publisher[program.publishes.items] = _owners(program.publishes)
        self.signallers = _inverse(program.signals, len(program.events))
        self.triggerers = _inverse(program.triggers, len(program.events))
        self.waker = np.full(len(program.groups), -1)  # group whose list names this one
        for wake in program.wakes:
            first = int(wake["first"])
            last = first + 1
            while last < len(program.groups) and program.groups["op"][last] == program.groups["op"][first]:
                last += 1
            self.waker[first:last] = wake["group"]
        self.static = program.groups["counts"] < 0


class StepOrder:
    """Of one step: its tasks (spans.SPAN, all workers'), and for each group the task that made it ready."""

    def __init__(self, dependencies: Dependencies, tasks: np.ndarray):
        self.dependencies = dependencies
        self.tasks = tasks[np.argsort(tasks["end_ns"], kind="stable")]
        self._last = dict(zip(self.tasks["group"].tolist(), range(len(self.tasks)), strict=True))
        self._blocks = set(self.tasks["block"][dependencies.static[self.tasks["group"]]].tolist())
        self._events: dict[int, int] = {}

    def ready_after(self, group: int) -> int:
        """Index in `tasks` of the last task that this group waited for; -1: none, it is a root."""
        waker = self.dependencies.waker[group]
        if waker >= 0:
            return self._last.get(int(waker), -1)
        event = int(self.dependencies.publisher[group])
        return -1 if event < 0 else self.fired_after(event)

    def fired_after(self, event: int) -> int:
        """Index in `tasks` of the last task that this event waited for; -1: none."""
        if event in self._events:
            return self._events[event]
        self._events[event] = -1
        found = max(
            (
                *(self._done_after(group) for group in self.dependencies.signallers.get(event, ())),
                *(self.fired_after(other) for other in self.dependencies.triggerers.get(event, ())),
            ),
            default=-1,
        )
        self._events[event] = found
        return found

    def _done_after(self, group: int) -> int:
        """Of a group without tasks, which is done as soon as it is ready, what that was after."""
        if group in self._last:
            return self._last[group]
        groups = self.dependencies.program.groups
        passes = self.dependencies.static[group] and groups["completes_empty"][group]
        passes = passes and int(groups["block"][group]) in self._blocks  # others are idle as a whole
        return self.ready_after(group) if passes else -1


@dataclass
class Link:
    """One task of a critical path, and what came between it and the one before."""

    task: np.void  # spans.SPAN
    gap_ns: int  # since the end of the one before; of the first: since the step began
    waited: bool  # for that one to be done; else it ran before on the same core


def critical_path(order: StepOrder, begin_ns: int) -> list[Link]:
    """The chain of tasks that ends with the step's last: each started when its worker or what it waited for let it."""
    tasks = order.tasks
    if not len(tasks):
        return []
    before = np.full(len(tasks), -1)  # on the same worker
    for worker in np.unique(tasks["worker"]):
        own = np.flatnonzero(tasks["worker"] == worker)
        before[own[1:]] = own[:-1]
    path = []
    current = len(tasks) - 1
    while current >= 0:
        source = order.ready_after(int(tasks["group"][current]))
        previous = max(source, int(before[current]))
        since = tasks["end_ns"][previous] if previous >= 0 else begin_ns
        gap = int(tasks["start_ns"][current]) - int(since)
        path.append(Link(tasks[current], gap, previous == source and source != before[current]))
        current = previous
    return path[::-1]


def _owners(ranges) -> np.ndarray:
    return np.repeat(np.arange(len(ranges)), np.diff(ranges.begin))


def _inverse(ranges, items: int) -> dict[int, list[int]]:
    """Item -> the owners of the ranges that hold it."""
    found: dict[int, list[int]] = {}
    for owner, item in zip(_owners(ranges).tolist(), ranges.items.tolist(), strict=True):
        found.setdefault(item, []).append(owner)
    return found
