"""The task graph: one group per operator and row block, or expert, and events between them.

Row blocks run independently of each other, coupled only by attention and by experts. Attend of block b waits until
blocks 0 .. b have appended their keys and values, by a chain of events from block to block. If latents are expanded in
between, that waits for all blocks, and attend of all blocks for it. Dispatch waits until all
blocks are routed; then rows are scattered, all at once, which wakes the experts that got any, and when these are done
every block sums up its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from ellm.dsl.arena import descendants
from ellm.dsl.operator import Operator
from ellm.kernels.records import Sync
from ellm.scheduler.program import Kind


@dataclass
class TaskGraph:
    """Groups and events as lists; see `ellm.scheduler.program.Program` for what each means.

    A wake is (operator before the experts, first group of the experts, event that joins them).
    """

    blocks: int
    first: list[int]  # operator -> its first group
    groups: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    signals: list[list[int]] = field(default_factory=list)
    events: list[tuple[int, int]] = field(default_factory=list)
    publishes: list[list[int]] = field(default_factory=list)
    triggers: list[list[int]] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)
    wakes: list[tuple[int, int, int]] = field(default_factory=list)
    end: int = -1

    def event(self, needed: int, dynamic: int = -1) -> int:
        """Add an event and return its number."""
        self.events.append((needed, dynamic))
        self.publishes.append([])
        self.triggers.append([])
        return len(self.events) - 1

    def group(self, operator: int, number: int) -> int:
        """Return an operator's group on a row block, or of an expert."""
        return self.first[operator] + number


def build(operators: Sequence[Operator], blocks: int) -> TaskGraph:
    """Make the groups and events of operators that come in topological order."""
    counts = [operator.groups(blocks) for operator in operators]
    graph = TaskGraph(blocks, [0, *accumulate(counts)])
    for number, operator in enumerate(operators):
        empty = int(operator.experts > 0 or operator.kind == Kind.SAMPLE or Kind.merges(operator.kind))
        fields = (operator.kind, operator.tiles, int(operator.logit_rows), empty)
        graph.groups += [(number, part, *fields) for part in range(counts[number])]
    graph.signals = [[] for _ in graph.groups]
    graph.end = graph.event(needed=1, dynamic=Kind.LOGITS)
    appended = _append_chains(graph, operators)
    joined: dict[int, int] = {}
    waits = _direct_waits(operators)
    made: dict[tuple, int] = {}
    for number, operator in enumerate(operators):
        sync = operator.record.sync
        if sync in (Sync.ALL, Sync.ONCE):
            event = _all_blocks(graph, operators, waits[number])
            graph.publishes[event] += [graph.group(number, part) for part in range(counts[number])]
            if sync is Sync.ALL:
                graph.triggers[event].append(graph.end)
        elif sync is Sync.JOIN:
            joined[number] = _experts(graph, number, operators)
        elif sync is not Sync.WOKEN:
            for block in range(blocks):
                group = graph.group(number, block)
                if not operator.after:
                    graph.roots.append(group)
                    continue
                done = [joined[one] for one in waits[number] if one in joined]
                if operator.cache_after is not None:
                    done.append(appended[operator.cache_after][block])
                if sync is Sync.ORDERED and block:
                    done.append(graph.event(needed=1))
                    graph.signals[graph.group(number, block - 1)].append(done[-1])
                plain = tuple(one for one in waits[number] if one not in joined)
                graph.publishes[_event(graph, made, plain, tuple(done), block)].append(group)
        if operator.kind == Kind.SAMPLE:
            for block in range(blocks):
                graph.signals[graph.group(number, block)].append(graph.end)
    return graph


def _append_chains(graph: TaskGraph, operators: Sequence[Operator]) -> dict[int, list[int]]:
    """For each operator that writes a cache, one event per block: it has done so for blocks 0 .. b.

    One that writes for all blocks at once has one event.
    """
    chains: dict[int, list[int]] = {}
    for number in sorted({operator.cache_after for operator in operators if operator.cache_after is not None}):
        if operators[number].record.sync is Sync.ONCE:
            event = graph.event(needed=1)
            graph.signals[graph.group(number, 0)].append(event)
            chains[number] = [event] * graph.blocks
            continue
        chain = [graph.event(needed=1 + (block > 0)) for block in range(graph.blocks)]
        for block, event in enumerate(chain):
            graph.signals[graph.group(number, block)].append(event)
            if block:
                graph.triggers[chain[block - 1]].append(event)
        chains[number] = chain
    return chains


def _experts(graph: TaskGraph, down: int, operators: Sequence[Operator]) -> int:
    """Chain gate_up and down of each expert, wake them by scatter, and return the event that joins those that ran."""
    (gate_up,) = operators[down].after
    (scatter,) = operators[gate_up].after
    join = graph.event(needed=0)
    for expert in range(operators[down].experts):
        event = graph.event(needed=1)
        graph.signals[graph.group(gate_up, expert)].append(event)
        graph.publishes[event].append(graph.group(down, expert))
        graph.signals[graph.group(down, expert)].append(join)
    graph.wakes.append((scatter, graph.group(gate_up, 0), join))
    return join


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
    graph: TaskGraph, made: dict[tuple, int], waits: tuple[int, ...], events: tuple[int, ...], block: int
) -> int:
    """Return the event of a block that fires when `waits` are done there and `events` have fired."""
    if not waits and len(events) == 1:
        return events[0]
    key = (waits, events, block)
    if key not in made:
        made[key] = graph.event(needed=len(waits) + len(events))
        for number in waits:
            graph.signals[graph.group(number, block)].append(made[key])
        for event in events:
            graph.triggers[event].append(made[key])
    return made[key]


def _all_blocks(graph: TaskGraph, operators: Sequence[Operator], waits: tuple[int, ...]) -> int:
    """Return the event that fires when `waits` are done in every active block."""
    events = []
    for number in waits:
        once = operators[number].record.sync is Sync.ONCE
        events.append(graph.event(needed=1) if once else graph.event(needed=0, dynamic=Kind.ROWS))
        for block in range(1 if once else graph.blocks):
            graph.signals[graph.group(number, block)].append(events[-1])
    if len(events) == 1:
        return events[0]
    last = graph.event(needed=len(events))
    for event in events:
        graph.triggers[event].append(last)
    return last
