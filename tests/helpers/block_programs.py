"""Random programs of the shape that models compile to, whose tasks check that all they depend on has run.

Row blocks that run the same random DAG, each ahead of the others unless an event couples it to the block before; groups
sized by the step and often empty; an end that waits for the active blocks, their logits and their samples. After some
DAGs come experts, of which each step wakes a few, and then another DAG.
"""

import os
from dataclasses import dataclass, field
from random import Random

import numpy as np

from ellm.kernels.contract import LEAF, SAMPLING, SPLIT
from ellm.scheduler import Pool, StepInput, StepTables
from ellm.scheduler.interpret import walk
from ellm.scheduler.probe_program import TABLE, assemble, choice
from ellm.scheduler.program import WAKE, Kind, Program

ROW_BLOCK = 16
WINDOWS = [0, 700]
CONTEXT = 4 * SPLIT


@dataclass
class Node:
    """One operator of the DAG that every row block runs."""

    kind: int
    tiles: int
    after: list[int]
    coupled: bool  # also waits for what this operator waits for in the block before


def random_nodes(random: Random) -> list[Node]:
    nodes = [Node(Kind.ROWS, random.randint(1, 9), [], False)]
    kinds = [Kind.ROWS, *range(Kind.ITEMS, Kind.ITEMS + 2 * len(WINDOWS))]
    for number in range(1, random.randint(2, 12)):
        near = range(max(0, number - 4), number)
        after = random.sample(near, random.randint(1, min(3, len(near))))
        nodes.append(Node(random.choice(kinds), random.randint(1, 4), after, random.random() < 0.3))
    return nodes


@dataclass
class Routing:
    """Experts between two DAGs."""

    experts: int
    tiles: tuple[int, int]  # of an expert's first and second group
    beside: bool  # each row block has a group that runs beside the experts
    chooser: int = -1  # group
    shared: int = -1  # offset in the arena of its list; the counts come after it
    choice: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))  # what it writes in this step

    @property
    def counts(self) -> int:
        return self.shared + 4 * (1 + self.experts)

    @property
    def bytes(self) -> int:
        return 4 * (1 + 2 * self.experts)


def random_routing(random: Random) -> Routing:
    return Routing(random.randint(1, 20), (random.randint(1, 4), random.randint(1, 4)), random.random() < 0.5)


class BlockProgram:
    """A program and the memory in which its tasks leave their marks."""

    def __init__(self, random: Random):
        self.blocks = random.randint(1, 3)
        self.routings = [random_routing(random) for _ in range(random.choice([0, 0, 1, 1, 2]))]
        self.dags = [random_nodes(random) for _ in range(1 + len(self.routings))]
        self.wakes: list[tuple[int, ...]] = []
        self.groups: list[tuple[int, ...]] = []
        self.events: list[list[int]] = []
        self.signals: list[list[int]] = []
        self.publishes: list[list[int]] = []
        self.triggers: list[list[int]] = []
        self.sources: list[set[int]] = []
        self.roots: list[int] = []
        self.experts: dict[int, int] = {}  # group -> expert
        self.shared_bytes = 0
        self._end()
        self.program = self._assemble()

    def load(self, pool):
        return pool.load(self.program, TABLE)

    def check_step(self, executable, inputs: StepInput) -> None:
        """Run one step natively and compare with the reference order."""
        counts = StepTables(self.program, executable.pool.threads).fill(inputs).counts
        expected = np.zeros(len(self.groups), np.int64)
        arena = np.full(self.program.arena_bytes, 0x55, np.uint8)
        choosers = {routing.chooser: routing for routing in self.routings}
        for group, tasks in walk(self.program, counts, arena):
            expected[group] = tasks
            if group in choosers:
                routing = choosers[group]
                arena[routing.shared :][: routing.bytes] = routing.choice.view(np.uint8)
        self.extents[:] = expected
        executable.run(inputs)
        assert self.faults[0] == 0, "a task ran twice, or before a task that it depends on"
        for group, tasks in enumerate(expected):
            marks = self.marks[self.offsets[group] : self.offsets[group + 1]]
            assert np.all(marks[:tasks] == executable.number), f"group {group}: a task was left out"
            assert not np.any(marks[tasks:] == executable.number), f"group {group}: a task that does not exist ran"

    def choose(self, random: Random) -> None:
        """Choose the experts that the next step wakes, and how large their groups are."""
        for routing in self.routings:
            hit = random.sample(range(routing.experts), random.randint(0, routing.experts))
            counts = [random.randint(1, self.blocks) for _ in hit]
            routing.choice[:] = choice(routing.experts, hit, counts)

    def _group(
        self, kind: int, block: int, tiles: int, *, logit: int = 0, empty: int = 1, counts: int = -1, sources=()
    ) -> int:
        self.groups.append((len(self.groups), block, kind, tiles, logit, empty, counts))
        self.signals.append([])
        self.sources.append(set(sources))
        return len(self.groups) - 1

    def _event(self, needed: int, dynamic: int = -1, publishes=(), triggers=()) -> int:
        self.events.append([needed, dynamic])
        self.publishes.append(list(publishes))
        self.triggers.append(list(triggers))
        return len(self.events) - 1

    def _end(self) -> None:
        """The event that ends the step, all DAGs and the experts between them, and the groups that come last."""
        self.end = self._event(1, Kind.LOGITS)
        starts: list[tuple[int, set[int]]] = []
        for nodes, routing in zip(self.dags, [*self.routings, None], strict=True):
            join = self._event(0, Kind.ROWS)
            last = self._dag(nodes, starts, join)
            if routing:
                starts = self._experts(routing, join, last)
        self.triggers[join].append(self.end)
        for block in range(self.blocks):
            logits = self._group(Kind.LOGITS, block, 3, logit=1, empty=0, sources=set().union(*(s for _, s in last)))
            sample = self._group(Kind.SAMPLE, block, 1, logit=1, sources=[logits])
            self.publishes[join].append(logits)
            self.signals[logits].append(self._event(1, publishes=[sample]))
            self.signals[sample].append(self.end)

    def _dag(self, nodes: list[Node], starts, join: int) -> list[tuple[int, set[int]]]:
        """Add all blocks' groups, which come after `starts`; returns each block's event of its end and its sinks."""
        before: list[tuple[int, set[int]]] | None = None
        last = []
        for block in range(self.blocks):
            before, sinks = self._block(nodes, block, before, starts[block] if starts else None)
            last.append((self._event(len(sinks), triggers=[join]), sinks))
            for sink in sinks:
                self.signals[sink].append(last[block][0])
        return last

    def _experts(self, routing: Routing, join: int, last) -> list[tuple[int, set[int]]]:
        """Add the experts after a DAG; returns each block's event after them and what has run by then."""
        routing.shared = 64 * self.blocks + self.shared_bytes
        self.shared_bytes += routing.bytes
        routing.choice = np.zeros(1 + 2 * routing.experts, np.int32)
        routing.chooser = self._group(Kind.ROWS, 0, 1, sources=set().union(*(sinks for _, sinks in last)))
        self.publishes[join].append(routing.chooser)
        woken = self._event(0)
        ups = [self._expert(routing, 0, e, [routing.chooser]) for e in range(routing.experts)]
        downs = [self._expert(routing, 1, e, [up]) for e, up in enumerate(ups)]
        for up, down in zip(ups, downs, strict=True):
            self.signals[up].append(self._event(1, publishes=[down]))
            self.signals[down].append(woken)
        self.wakes.append((routing.chooser, routing.shared, ups[0], woken))
        starts = []
        for block in range(self.blocks):
            event, sources = self._event(1), {routing.chooser, *downs}
            self.triggers[woken].append(event)
            if routing.beside:
                group = self._group(Kind.ROWS, block, 3, sources=last[block][1])
                self.publishes[last[block][0]].append(group)
                self.signals[group].append(event)
                self.events[event][0] += 1
                sources.add(group)
            starts.append((event, sources))
        return starts

    def _expert(self, routing: Routing, part: int, expert: int, sources: list[int]) -> int:
        group = self._group(Kind.ROWS, expert, routing.tiles[part], counts=routing.counts, sources=sources)
        self.experts[group] = expert
        return group

    def _block(self, nodes, block, before, start) -> tuple[list[tuple[int, set[int]]], set[int]]:
        """Add one block's groups; returns each operator's event and sources, and the groups that nothing follows."""
        first = len(self.groups)
        done: list[tuple[int, set[int]]] = []
        for number, node in enumerate(nodes):
            sources = {first + i for i in node.after}
            event = -1
            group = self._group(node.kind, block, node.tiles, empty=int(bool(node.after)), sources=sources)
            if node.after:
                event = self._event(len(sources), publishes=[group])
                for source in sources:
                    self.signals[source].append(event)
            elif start:
                self.publishes[start[0]].append(group)
                self.sources[group] |= start[1]
            else:
                self.roots.append(group)
            if node.coupled and before:
                self.events[event][0] += 1
                self.triggers[before[number][0]].append(event)
                self.sources[group] |= before[number][1]
            done.append((event, self.sources[group]))
        followed = set().union(*(self.sources[first + i] for i in range(len(nodes))))
        return done, set(range(first, len(self.groups))) - followed

    def _assemble(self) -> Program:
        for sources in self.sources:  # groups are numbered in order, and an empty one hides what it waited for
            for source in list(sources):
                sources |= self.sources[source] if self.groups[source][2] != Kind.ROWS else set()
        runs = ROW_BLOCK * CONTEXT // LEAF
        most = [group[3] * (runs if group[2] not in (Kind.ROWS, Kind.LOGITS) else 1) for group in self.groups]
        most = [tasks * (self.blocks if group in self.experts else 1) for group, tasks in enumerate(most)]
        self.offsets = np.concatenate([[0], np.cumsum(most)]).astype(np.int64)
        self.marks = np.zeros(self.offsets[-1], np.int64)
        self.extents = np.zeros(len(self.groups), np.int64)
        self.faults = np.zeros(1, np.uint64)
        self.source_lists = [np.array(sorted(sources) or [0], np.int32) for sources in self.sources]
        args = [
            {
                "marks": self.marks.ctypes.data,
                "extents": self.extents.ctypes.data,
                "offsets": self.offsets.ctypes.data,
                "sources": self.source_lists[group].ctypes.data,
                "source_count": len(self.sources[group]),
                "group": group,
                "faults": self.faults.ctypes.data,
                "expert": 1 + self.experts.get(group, -1),
            }
            for group in range(len(self.groups))
        ]
        kernels = ["trail"] * len(self.groups)
        for routing in self.routings:
            kernels[routing.chooser] = "choose"
            args[routing.chooser] |= {
                "choice": routing.choice.ctypes.data,
                "experts": routing.experts,
                "list": routing.shared,
                "counts": routing.counts,
            }
        return assemble(
            kernels,
            args,
            self.groups,
            [tuple(event) for event in self.events],
            {"signals": self.signals, "publishes": self.publishes, "triggers": self.triggers},
            roots=np.array(self.roots, np.int32),
            end=self.end,
            row_block=ROW_BLOCK,
            blocks=self.blocks,
            windows=WINDOWS,
            kv_heads=1,
            fold_heads=8,
            partials=48,
            partial_floats=1,
            context=CONTEXT,
            shared_bytes=self.shared_bytes,
            wakes=np.array(self.wakes, WAKE),
        )


def check_random_program(pool: Pool, random: Random) -> None:
    """Run a few steps of one natively."""
    graph = BlockProgram(random)
    executable = graph.load(pool)
    for _ in range(6):
        graph.choose(random)
        graph.check_step(executable, random_step(random, graph.program))


def oversubscribed(workers: int) -> Pool:
    """So many on the cores that there are: more of them than cores lose theirs at any moment."""
    allowed = sorted(os.sched_getaffinity(0))
    return Pool(cores=(allowed * workers)[:workers])


def random_step(random: Random, program: Program) -> StepInput:
    """Some sequences' rows, of which some want logits, perhaps sampled."""
    total = random.randint(1, program.chunk)
    slots: list[int] = []
    positions: list[int] = []
    while len(slots) < total:
        rows = random.randint(1, total - len(slots))
        begin = random.choice([0, random.randint(0, program.context - rows)])
        slots += [(slots[-1] + 1 if slots else 0)] * rows
        positions += range(begin, begin + rows)
    logit_row = sorted(random.sample(range(total), random.choice([0, 1, total])))
    count = len(logit_row)
    sampled = random.random() < 0.5
    sampling = np.zeros(count, SAMPLING) if sampled else None
    return StepInput.of(positions, slots=slots, logit_row=logit_row, vocab=program.vocab, sampling=sampling)
