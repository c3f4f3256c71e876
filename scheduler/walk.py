"""What happens in a step, in an order that its dependencies allow, with every one of them asserted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Literal, NamedTuple, Protocol

import numpy as np

from ellm.scheduler.program import Program

Node = tuple[Literal["group", "event"], int]


class What(Enum):
    """What happened to a group or an event."""

    PUBLISHED = "a group, by the event, or the group that wakes it, that was before it; roots by nothing"
    RUN = "a group that has tasks"
    SIGNALLED = "an event, by a group or by an event"
    FIRED = "an event"


class Moment(NamedTuple):
    """Something that happened to a group or an event, and what made it."""

    what: What
    number: int
    by: Node | None = None


class Routing(Protocol):
    """What a step decides while it runs."""

    def tasks(self, group: int) -> int:
        """Tasks of a group of experts that was woken."""

    def woken(self, wake: int) -> list[int]:
        """The groups that a wake publishes, when its own group is done."""


def moments(program: Program, counts: np.ndarray, routing: Routing) -> Iterator[Moment]:
    """All that happens in a step with these counts.

    Whoever takes the moment in which a group runs must have run it when asking for the next: then `routing` is asked.
    Raises AssertionError if an event gets more signals than it needs, a group is published twice, the step ends early
    or never, a group whose count is not 0 is not run, or a wake names a group that is not its expert's.
    """
    events, groups = program.events, program.groups
    needed = events["needed"].astype(int)
    for event in np.flatnonzero(events["dynamic"] >= 0).tolist():
        needed[event] += np.count_nonzero(counts[events["dynamic"][event]])
    static = groups["counts"] < 0
    tasks = np.zeros(len(groups), int)
    tasks[static] = counts[groups["kind"][static], groups["block"][static]] * groups["tiles"][static]
    wakes = {int(wake["group"]): number for number, wake in enumerate(program.wakes)}
    signalled = np.zeros(len(events), int)
    published = np.zeros(len(groups), bool)
    ready: deque[int] = deque()
    signals: deque[tuple[int, Node]] = deque()
    fired: deque[int] = deque()

    def publish(group: int, by: Node | None) -> Moment:
        assert not published[group], f"group {group} is published twice"
        published[group] = True
        if not static[group]:
            tasks[group] = routing.tasks(group)
        if tasks[group]:
            ready.append(group)
        elif groups["completes_empty"][group]:
            signal(group)
        return Moment(What.PUBLISHED, group, by)

    def signal(group: int) -> None:
        signals.extend((event, ("group", group)) for event in program.signals[group].tolist())

    def wake(group: int) -> Iterator[Moment]:
        first, join = int(program.wakes["first"][wakes[group]]), int(program.wakes["join"][wakes[group]])
        assert signalled[join] == 0, f"event {join} gets a signal before group {group} says how many it needs"
        woken = routing.woken(wakes[group])
        needed[join] = len(woken)
        if not woken:
            fired.append(join)
        for number in woken:
            assert not static[number], f"group {group} wakes group {number}, which the step sizes"
            expert, block = number - first, groups["block"][number]
            assert expert == block, f"group {group} wakes expert {expert}, but group {number} is that of {block}"
            yield publish(number, ("group", group))

    for root in program.roots.tolist():
        if tasks[root]:
            yield publish(root, None)
    while ready:
        group = ready.popleft()
        assert signalled[program.end] < needed[program.end], f"group {group} runs after the end of the step"
        yield Moment(What.RUN, group)
        if group in wakes:
            yield from wake(group)
        signal(group)
        while signals or fired:
            if signals:
                event, by = signals.popleft()
                signalled[event] += 1
                assert signalled[event] <= needed[event], f"event {event} gets more than its {needed[event]} signals"
                yield Moment(What.SIGNALLED, event, by)
                if signalled[event] == needed[event]:
                    fired.append(event)
                continue
            event = fired.popleft()
            yield Moment(What.FIRED, event)
            for released in program.publishes[event].tolist():
                yield publish(released, ("event", event))
            signals.extend((other, ("event", event)) for other in program.triggers[event].tolist())
    assert signalled[program.end] == needed[program.end], "the step does not end"
    forgotten = np.flatnonzero(~published & (tasks > 0))
    assert not len(forgotten), f"groups {forgotten.tolist()} are never published"
