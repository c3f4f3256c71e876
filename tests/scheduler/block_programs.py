"""Random programs of the shape that models compile to, whose tasks check that all they depend on has run.

Row blocks that run the same random DAG, each ahead of the others unless an event couples it to the block before; groups
sized by the step and often empty; an end that waits for the active blocks, their logits and their samples.
"""

from dataclasses import dataclass
from random import Random

import numpy as np

from ellm.kernels.contract import SAMPLING, SPLIT
from ellm.scheduler import StepInput, StepTables
from ellm.scheduler.interpret import walk
from ellm.scheduler.probe_program import TABLE, assemble
from ellm.scheduler.program import Kind, Program

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


class BlockProgram:
    """A program and the memory in which its tasks leave their marks."""

    def __init__(self, random: Random):
        self.nodes, self.blocks = random_nodes(random), random.randint(1, 3)
        self.groups: list[tuple[int, ...]] = []
        self.events: list[list[int]] = []
        self.signals: list[list[int]] = []
        self.publishes: list[list[int]] = []
        self.triggers: list[list[int]] = []
        self.sources: list[set[int]] = []
        self.roots: list[int] = []
        self._end()
        self.program = self._assemble()

    def load(self, pool):
        return pool.load(self.program, TABLE)

    def check_step(self, executable, inputs: StepInput) -> None:
        """Run one step natively and compare with the reference order."""
        counts = StepTables(self.program, inputs, executable.pool.threads).counts
        expected = np.zeros(len(self.groups), np.int64)
        for group, tasks in walk(self.program, counts):
            expected[group] = tasks
        self.extents[:] = expected
        executable.run(inputs)
        assert self.faults[0] == 0, "a task ran twice, or before a task that it depends on"
        for group, tasks in enumerate(expected):
            marks = self.marks[self.offsets[group] : self.offsets[group + 1]]
            assert np.all(marks[:tasks] == executable.number), f"group {group}: a task was left out"
            assert not np.any(marks[tasks:] == executable.number), f"group {group}: a task that does not exist ran"

    def _group(self, kind: int, block: int, tiles: int, *, logit: int = 0, empty: int = 1, sources=()) -> int:
        self.groups.append((len(self.groups), block, kind, tiles, logit, empty))
        self.signals.append([])
        self.sources.append(set(sources))
        return len(self.groups) - 1

    def _event(self, needed: int, dynamic: int = -1, publishes=(), triggers=()) -> int:
        self.events.append([needed, dynamic])
        self.publishes.append(list(publishes))
        self.triggers.append(list(triggers))
        return len(self.events) - 1

    def _end(self) -> None:
        """The events and groups after the blocks' last, then the blocks."""
        self.end = self._event(1, Kind.LOGITS)
        join = self._event(0, Kind.ROWS, triggers=[self.end])
        last: set[int] = set()
        before: list[tuple[int, set[int]]] | None = None
        for block in range(self.blocks):
            before, sinks = self._block(block, before, join)
            last |= sinks
        for block in range(self.blocks):
            logits = self._group(Kind.LOGITS, block, 3, logit=1, empty=0, sources=last)
            sample = self._group(Kind.SAMPLE, block, 1, logit=1, sources=[logits])
            self.publishes[join].append(logits)
            self.signals[logits].append(self._event(1, publishes=[sample]))
            self.signals[sample].append(self.end)

    def _block(self, block, before, join) -> tuple[list[tuple[int, set[int]]], set[int]]:
        """Add one block's groups; returns each operator's event and sources, and the groups that nothing follows."""
        first = len(self.groups)
        done: list[tuple[int, set[int]]] = []
        for number, node in enumerate(self.nodes):
            sources = {first + i for i in node.after}
            event = -1
            group = self._group(node.kind, block, node.tiles, sources=sources)
            if node.after:
                event = self._event(len(sources), publishes=[group])
                for source in sources:
                    self.signals[source].append(event)
            else:
                self.roots.append(group)
            if node.coupled and before:
                self.events[event][0] += 1
                self.triggers[before[number][0]].append(event)
                self.sources[group] |= before[number][1]
            done.append((event, self.sources[group]))
        followed = set().union(*(self.sources[first + i] for i in range(len(self.nodes))))
        sinks = set(range(first, len(self.groups))) - followed
        finished = self._event(len(sinks), triggers=[join])
        for sink in sinks:
            self.signals[sink].append(finished)
        return done, sinks

    def _assemble(self) -> Program:
        for sources in self.sources:  # groups are numbered in order, and an empty one hides what it waited for
            for source in list(sources):
                sources |= self.sources[source] if self.groups[source][2] != Kind.ROWS else set()
        runs = ROW_BLOCK * CONTEXT // SPLIT
        most = [group[3] * (1 if group[2] in (Kind.ROWS, Kind.LOGITS) else runs) for group in self.groups]
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
            }
            for group in range(len(self.groups))
        ]
        return assemble(
            ["trail"] * len(self.groups),
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
        )


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
    logit_row = np.array(sorted(random.sample(range(total), random.choice([0, 1, total]))), np.int32)
    count = len(logit_row)
    sampled = random.random() < 0.5
    return StepInput(
        np.zeros(total, np.int32),
        np.array(positions, np.int32),
        np.array(slots, np.int32),
        np.zeros(slots[-1] + 1, np.uint64),
        logit_row,
        np.zeros((count, program.vocab), np.float32),
        np.zeros(count, SAMPLING) if sampled else None,
        np.zeros(count, np.int32) if sampled else None,
        np.zeros(count, np.float32) if sampled else None,
    )
