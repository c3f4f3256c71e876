"""A compiled model as plain data: what the compiler hands to the scheduler.

A *group* is a range of tasks of one operator on one row block; an *event* fires when its count is reached and publishes
groups. How many tasks a group has is decided by the step: `counts[kind, block] * tiles`, where `counts` is a small
table that the step builder fills (see `Kind`). Of the groups of experts, a step runs those that it *wakes*: their
numbers, and the counts that size them, are written by a kernel. Nothing here knows about models or threads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Protocol, TypeVar

import numpy as np

from ellm.kernels.contract import ARGS_BYTES, EXPERT_ROWS, SPLIT
from ellm.kernels.formats import FORMATS
from ellm.scheduler.contents import ArenaPlan, CacheEntry, CacheKind, HiddenRows, OperatorInfo, WeightEntry


class Kind(IntEnum):
    """What a group's extent follows; `counts[kind, block]` is the number that its tiles are multiplied by."""

    ROWS = 0  # 1 if the row block holds a row of this step
    LOGITS = 1  # 1 if the logit row block holds a logit row
    SAMPLE = 2  # sampled logit rows of the logit row block
    SPLITS = 3  # of row block 0: splits of the context that the step's sequences have reached
    PIECES = 4  # of row block 0: pieces of PIECE rows of the step
    ITEMS = 5  # attend items of the row block, for window class 0; class c is ITEMS + 2 * c
    MERGES = 6  # merge items likewise

    @classmethod
    def attends(cls, kind: int) -> bool:
        """Whether a group's extent is that of attend items, of whatever class."""
        return kind >= cls.ITEMS and (kind - cls.ITEMS) % 2 == 0

    @classmethod
    def merges(cls, kind: int) -> bool:
        """Whether it is that of merge items."""
        return kind >= cls.MERGES and (kind - cls.MERGES) % 2 == 0


GROUP = np.dtype(
    [
        ("op", "i4"),
        ("block", "i4"),  # row block; the expert, of a group that a wake publishes
        ("kind", "i4"),
        ("tiles", "i4"),
        ("logit_rows", "i4"),  # 1: the block counts logit rows (task.rows), 0: step rows
        ("completes_empty", "i4"),  # with no task: 1 = complete at once and signal, 0 = its whole chain is idle
        ("counts", "i8"),  # -1: sized by the step's counts; else by int32 rows[block] at this offset of the arena
    ]
)
EVENT = np.dtype(
    [
        ("needed", "i4"),  # signals in every step in which the event is used
        ("dynamic", "i4"),  # a Kind: one more signal for each block whose count of that kind is not 0; -1: none
    ]
)
WAKE = np.dtype(
    [
        ("group", "i8"),  # when it is done, the groups of the experts in its list are published
        ("list", "i8"),  # offset in the arena of int32: how many experts, then which
        ("first", "i8"),  # group of expert 0, the others' follow
        ("join", "i8"),  # the event that needs one signal for each of them, and no other, in this step
    ]
)
MOST_TASKS = (1 << 20) - 1  # of one group: what a packed slice can say
T = TypeVar("T", bound="OfProgram")


@dataclass
class Lists:
    """Lists of numbers, one per owner, end to end: owner i has `items[begin[i]:begin[i + 1]]`."""

    begin: np.ndarray  # int32 [owners + 1]
    items: np.ndarray  # int32 [total]

    @staticmethod
    def of(lists: list[list[int]]) -> Lists:
        """One list for each owner."""
        begin = np.zeros(len(lists) + 1, np.int32)
        begin[1:] = np.cumsum([len(part) for part in lists])
        return Lists(begin, np.array([n for part in lists for n in part], np.int32))

    def __getitem__(self, owner: int) -> np.ndarray:
        return self.items[self.begin[owner] : self.begin[owner + 1]]

    def __len__(self) -> int:
        return len(self.begin) - 1


@dataclass
class Program:
    """A static task DAG with every address decided, except the base of the weights.

    `args[op]` holds the `ellm_<kernel>` struct of kernels/arguments.h. Each entry (op, byte) of `relocations` is a
    weight address in it, stored as an offset to which the base of the weights region is added on loading.
    """

    kernels: list[str]  # names; op_kernel indexes them
    op_kernel: np.ndarray  # int32 [ops]
    op_names: list[str]  # unique, e.g. "layers.3.qkv"
    args: np.ndarray  # uint8 [ops, ARGS_BYTES]
    relocations: np.ndarray  # int32 [n, 2]
    groups: np.ndarray  # GROUP [groups]
    events: np.ndarray  # EVENT [events]
    signals: Lists  # group -> events that it signals once when its last task is done
    publishes: Lists  # event -> groups
    triggers: Lists  # event -> events that it signals once
    roots: np.ndarray  # int32: groups published at the start of a step if their count is not 0
    end: int  # the event that ends the step
    row_block: int  # rows in a full block
    blocks: int  # row blocks: chunk = blocks * row_block at most
    windows: list[int]  # attention window of each window class; 0 = full
    kv_heads: int  # most tasks of an attend item, one per KV head
    fold_heads: int  # query heads folded per KV head: an item has at most ELLM_FOLD // fold_heads rows (1 at least)
    section_bytes: int  # arena of one row block
    scratch_bytes: int  # per worker
    partial_floats: int  # f32 in one partial: heads * (head_dim + 2); 0 if nothing attends
    partials: int  # most partials of a step
    weights_bytes: int
    range_bytes: int  # virtual size of one sequence's KV range: states, blocks of positions, what serves a prompt
    context: int  # most positions of a sequence
    vocab: int
    first_block: int = 0  # byte of the range where its blocks begin
    block_bytes: int = 0  # of SPLIT positions in all layers
    shared_bytes: int = 0  # arena behind the sections: what all row blocks share
    wakes: np.ndarray = field(default_factory=lambda: np.zeros(0, WAKE))  # WAKE [n]
    graph: str = ""  # the graph that it computes, as text
    operators: tuple[OperatorInfo, ...] = ()
    weights: tuple[WeightEntry, ...] = ()  # in order of offset
    caches: tuple[CacheEntry, ...] = ()  # in the range of a sequence
    plan: ArenaPlan = field(default_factory=ArenaPlan)
    hidden: HiddenRows | None = None  # None: they do not lie anywhere
    input_width: int = 0  # numbers that the caller gives of each row beside its token; 0: none
    variant: str = ""  # what it is among a model's programs; "": the one for any step
    least_rows: int = 1  # of each sequence in the steps that it is chosen for, among a model's programs

    @property
    def arena_bytes(self) -> int:
        """Bytes of all sections and of what they share."""
        return self.section_bytes * self.blocks + self.shared_bytes

    def working_bytes(self, workers: int) -> int:
        """Bytes of the arena and of the scratch of so many workers."""
        return self.arena_bytes + workers * self.scratch_bytes

    @property
    def token_bytes(self) -> int:
        """Bytes of weights that one row needs, without padding."""
        return sum(operator.token_bytes for operator in self.operators)

    @cached_property
    def weight_bytes(self) -> dict[str, int]:
        """Bytes of packed weights by format; vectors and constants are "f32"."""
        found: Counter[str] = Counter()
        for weight in self.weights:
            found[weight.precision] += weight.bytes
        return dict(found)

    @property
    def spill_bytes(self) -> int:
        """Address space behind the weights for what does not fit their formats; little of it is touched, if any."""
        return sum(weight.spill_bytes for weight in self.weights)

    def weight_offsets(self) -> set[int]:
        """Where in the weights region what its operators read begins."""
        places = (self.args[op, byte : byte + 8] for op, byte in self.relocations)
        return {int(place.view(np.int64)[0]) for place in places}

    def kind(self, op: int) -> int:
        """The Kind of an operator's groups."""
        return int(self.groups["kind"][np.searchsorted(self.groups["op"], op)])

    @property
    def block_offsets(self) -> np.ndarray:
        """Where the blocks of a sequence's positions are in its own range: uint64 [context_blocks]."""
        return np.uint64(self.first_block) + np.uint64(self.block_bytes) * np.arange(
            self.context_blocks, dtype=np.uint64
        )

    @property
    def context_blocks(self) -> int:
        """Most blocks of a sequence."""
        return -(-self.context // SPLIT)

    @property
    def position_bytes(self) -> int:
        """Bytes that one position adds to the caches of a sequence, without padding."""
        return sum(cache.kind.position_bytes for cache in self.caches if cache.kind.kept)

    def cache_bytes(self, positions: int) -> int:
        """Bytes of the caches of a sequence of so many positions that will not be cut back, without padding."""
        kept = (cache.kind for cache in self.caches if cache.kind.kept)
        held = sum(kind.position_bytes * kind.kept_of(positions, self.chunk) for kind in kept)
        return held + self.sequence_bytes

    @property
    def prompt_position_bytes(self) -> int:
        """Bytes that one position of a prompt takes besides until that is computed, without padding."""
        return sum(cache.kind.position_bytes for cache in self.caches if not cache.kind.kept)

    @cached_property
    def prompt_only_bytes(self) -> float:
        """Bytes of a range that one position takes of what serves a prompt alone, with padding."""
        return sum(cache.bytes for cache in self.caches if not cache.kind.kept) / self.context

    @property
    def sequence_bytes(self) -> int:
        """Bytes of the caches of a sequence, however long."""
        return sum(cache.kind.sequence_bytes for cache in self.caches)

    def second_of(self, wake: int) -> int:
        """The group of expert 0 that comes after the one which a wake publishes; the other experts' follow."""
        return int(self.publishes[self.signals[int(self.wakes["first"][wake])][0]][0])

    @property
    def cache_kinds(self) -> Counter[CacheKind]:
        """How many caches a sequence has of each kind."""
        return Counter(cache.kind for cache in self.caches)

    @property
    def chunk(self) -> int:
        """Most rows of a step."""
        return self.row_block * self.blocks

    @property
    def kinds(self) -> int:
        """Kinds in use: rows of the counts table."""
        return int(Kind.ITEMS) + 2 * len(self.windows)

    @cached_property
    def most_tiles(self) -> dict[int, int]:
        """Kind -> most tiles of the groups that the step's counts size."""
        groups = self.groups[self.groups["counts"] < 0]
        return {kind: int(groups["tiles"][groups["kind"] == kind].max()) for kind in np.unique(groups["kind"]).tolist()}

    def check(self) -> None:
        """Raise ValueError unless every number that stands for something is in range."""
        groups, events, ops = len(self.groups), len(self.events), len(self.op_names)
        static = self.groups[self.groups["counts"] < 0]
        routed = self.groups[self.groups["counts"] >= 0]
        wakers = self.groups[self.wakes["group"] % max(1, groups)]
        after = [number for operator in self.operators for number in operator.after]
        accesses = [(one.first, one.last) for one in self.plan.buffers + self.plan.shared_buffers]
        limits = {
            "op_kernel": (self.op_kernel, len(self.kernels)),
            "groups.op": (self.groups["op"], ops),
            "groups.block": (static["block"], self.blocks),
            "groups.kind": (self.groups["kind"], self.kinds),
            "groups.tiles": (self.groups["tiles"], MOST_TASKS + 1),
            "groups.counts": (self.groups["counts"] + 1, self.arena_bytes + 1),
            "groups.counts + block": (routed["counts"] + 4 * routed["block"].astype(int), self.arena_bytes - 3),
            "tasks of an expert": (
                routed["tiles"] * -(-self.chunk // EXPERT_ROWS),  # each row chooses it once at most
                MOST_TASKS + 1,
            ),
            "wakes.group": (self.wakes["group"], groups),
            "wakes.list": (self.wakes["list"], self.arena_bytes - 3),
            "wakes.first": (self.wakes["first"], groups),
            "wakes.join": (self.wakes["join"], events),
            "block of a group that wakes": (wakers["block"], 1),
            "kind of a group that wakes": (wakers["kind"] % int(Kind.PIECES), 1),  # ROWS and PIECES are never 0
            "events.dynamic": (self.events["dynamic"] + 1, self.kinds + 1),
            "signals": (self.signals.items, events),
            "publishes": (self.publishes.items, groups),
            "triggers": (self.triggers.items, events),
            "roots": (self.roots, groups),
            "end": (np.array([self.end]), events),
            "operators.after": (np.array(after, int), ops),
            "accesses of the plan": (np.array(accesses, int), ops + 1),
            "relocations.op": (self.relocations[:, 0], ops),
            "relocations.byte": (self.relocations[:, 1], ARGS_BYTES - 7),
        }
        kept = {operator.precision for operator in self.operators} | {weight.format for weight in self.weights}
        unknown = kept - {"", *FORMATS}
        if unknown:
            raise ValueError(f"program: weights are in {', '.join(sorted(unknown))}, known are {', '.join(FORMATS)}")
        for name, (values, limit) in limits.items():
            if len(values) and not (values.min() >= 0 and values.max() < limit):
                got = f"{values.min()} to {values.max()}"
                raise ValueError(f"program: {name} holds {got}, allowed are 0 to {limit - 1}")
        for name, ranges, owners in (
            ("signals", self.signals, groups),
            ("publishes", self.publishes, events),
            ("triggers", self.triggers, events),
        ):
            if len(ranges) != owners or ranges.begin[0] != 0 or np.any(np.diff(ranges.begin) < 0):
                raise ValueError(f"program: {name} has {len(ranges)} owners, expected {owners}, in ascending ranges")
            if ranges.begin[-1] != len(ranges.items):
                raise ValueError(f"program: {name} has {len(ranges.items)} items, expected {ranges.begin[-1]}")
        for wake, first in enumerate(self.wakes["first"].tolist()):
            if not any(len(self.publishes[event]) for event in self.signals[first][:1]):
                raise ValueError(f"program: nothing comes after group {first}, the first that wake {wake} publishes")


class OfProgram(Protocol):
    """What stands for a program: an executable, a planner."""

    @property
    def program(self) -> Program:
        """The program."""


def chosen(entries: Sequence[T], rows: int) -> T:
    """What runs a step with so many rows of each sequence: of a model's programs, the last that is for so few."""
    return [entry for entry in entries if entry.program.least_rows <= rows][-1]
