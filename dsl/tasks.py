"""The task graph: one group per operator and row block, events between them.

Row blocks run independently of each other, coupled only by attention: attend of block b waits until blocks 0 .. b have
appended their keys and values, by a chain of events from block to block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ellm.dsl.operator import Operator
from ellm.dsl.plan import descendants
from ellm.scheduler.program import Kind


@dataclass
class TaskGraph:
    """Groups and events as lists; see `ellm.scheduler.program.Program` for what each means."""

    blocks: int
    groups: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    signals: list[list[int]] = field(default_factory=list)
    events: list[tuple[int, int]] = field(default_factory=list)
    publishes: list[list[int]] = field(default_factory=list)
    triggers: list[list[int]] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)
    end: int = -1

    def event(self, needed: int, dynamic: int = -1) -> int:
        """Add an event and return its number."""
        self.events.append((needed, dynamic))
        self.publishes.append([])
        self.triggers.append([])
        return len(self.events) - 1

    def group(self, operator: int, block: int) -> int:
        """Return the number of an operator's group on a row block."""
        return operator * self.blocks + block


def build(operators: Sequence[Operator], blocks: int) -> TaskGraph:
    """Make the groups and events of operators that come in topological order."""
    graph = TaskGraph(blocks)
    for number, operator in enumerate(operators):
        empty = int(operator.kind == Kind.SAMPLE or operator.kernel == "merge")
        fields = (operator.kind, operator.tiles, int(operator.logit_rows), empty)
        graph.groups += [(number, block, *fields) for block in range(blocks)]
    graph.signals = [[] for _ in graph.groups]
    graph.end = graph.event(needed=1, dynamic=Kind.LOGITS)
    appended = _append_chains(graph, operators)
    waits = _direct_waits(operators)
    made: dict[tuple, int] = {}
    for number, operator in enumerate(operators):
        if operator.kernel == "gather":
            _gather(graph, number, waits[number])
            continue
        for block in range(blocks):
            group = graph.group(number, block)
            if not operator.after:
                graph.roots.append(group)
            else:
                event = _event(graph, made, waits[number], operator.cache_after, appended, block)
                graph.publishes[event].append(group)
            if operator.kernel == "sample":
                graph.signals[group].append(graph.end)
    return graph


def _append_chains(graph: TaskGraph, operators: Sequence[Operator]) -> dict[int, list[int]]:
    """For each operator that appends to a cache, one event per block: blocks 0 .. b have appended."""
    chains: dict[int, list[int]] = {}
    for number in sorted({operator.cache_after for operator in operators if operator.cache_after is not None}):
        chain = [graph.event(needed=1 + (block > 0)) for block in range(graph.blocks)]
        for block, event in enumerate(chain):
            graph.signals[graph.group(number, block)].append(event)
            if block:
                graph.triggers[chain[block - 1]].append(event)
        chains[number] = chain
    return chains


def _direct_waits(operators: Sequence[Operator]) -> list[tuple[int, ...]]:
    """What each operator waits for, without what the rest of it waits for anyway."""
    masks = descendants([operator.after for operator in operators])
    waits = []
    for operator in operators:
        after = operator.after
        direct = [one for one in after if not any(masks[one] >> other & 1 for other in after)]
        waits.append(tuple(one for one in direct if one != operator.cache_after))
    return waits


def _event(
    graph: TaskGraph,
    made: dict[tuple, int],
    waits: tuple[int, ...],
    cache: int | None,
    appended: dict[int, list[int]],
    block: int,
) -> int:
    """Return the event of a block that fires when `waits` are done there and, if it reads a cache, that is ready."""
    if cache is not None and not waits:
        return appended[cache][block]
    key = (waits, cache, block)
    if key not in made:
        made[key] = graph.event(needed=len(waits) + (cache is not None))
        for number in waits:
            graph.signals[graph.group(number, block)].append(made[key])
        if cache is not None:
            graph.triggers[appended[cache][block]].append(made[key])
    return made[key]


def _gather(graph: TaskGraph, number: int, waits: tuple[int, ...]) -> None:
    """Gathers read every block: all wait for the event that counts each active block's last value."""
    (last,) = waits
    event = graph.event(needed=0, dynamic=Kind.ROWS)
    for block in range(graph.blocks):
        graph.signals[graph.group(last, block)].append(event)
    graph.publishes[event] += [graph.group(number, block) for block in range(graph.blocks)]
    graph.triggers[event].append(graph.end)
