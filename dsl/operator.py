"""Operators of the task graph: kernels with their arguments, before anything has an address."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ellm.dsl.arena import Buffer
from ellm.dsl.node import Node
from ellm.dsl.packing import Packed
from ellm.dsl.tensor import Shape, features
from ellm.kernels import contract
from ellm.kernels.records import RECORDS, Kernel, Sync
from ellm.scheduler.contents import CacheKind
from ellm.scheduler.program import Kind


@dataclass(eq=False)
class CachePart:
    """A cache of a range: keys and values of each of its blocks, or a state."""

    layer: int  # -1: none
    kind: CacheKind
    bytes: int  # of a block; of a state, all
    windows: set[int] = field(default_factory=set)  # of who reads it; 0: all of the context
    offset: int = -1  # in each block; of a state and of what serves a prompt alone, in the range
    heads: int = 1
    key_bytes: int = 0  # of a head in a block

    @property
    def window(self) -> int:
        """Positions up to a row that it reads at most; 0: all."""
        return 0 if 0 in self.windows else max(self.windows, default=0)


@dataclass(frozen=True)
class View:
    """A place within a buffer or a cache, `bytes` from its start."""

    buffer: Buffer | CachePart
    bytes: int

    @property
    def offset(self) -> int:
        """Where it lies, as of a buffer."""
        return self.buffer.offset + self.bytes


Argument = int | float | Buffer | CachePart | View | Packed | None
ABSENT: dict[str, int | float] = {
    "buffer": -1,
    "shared": -1,
    "weight": 0,
    "int": 0,
    "real": 0.0,
    "range": 0,
}


@dataclass(frozen=True)
class Stored:
    """Where the value of a node lies: its buffer, type, and row stride in elements.

    A view is some columns of another value: its first element, and the elements between groups of columns (heads).
    """

    buffer: Buffer
    bf16: bool
    stride: int
    first: int = 0
    group_stride: int = 0  # 0: no view, groups lie end to end

    @property
    def place(self) -> View:
        """Its first element."""
        return View(self.buffer, self.first * (2 if self.bf16 else 4))

    def read(self, shape: Shape) -> dict[str, Argument]:
        """Arguments of a kernel that reads a value of this shape as groups of columns."""
        return {"x": self.place, "x_stride": self.stride, "x_group_stride": self.group_stride or features(shape)[-1]}

    def written(self, shape: Shape) -> dict[str, Argument]:
        """Arguments of a kernel that writes it so; who writes the last columns of a row pads it."""
        *groups, width = features(shape)
        between = self.group_stride or width
        args: dict[str, Argument] = {"out": self.place, "out_bf16": int(self.bf16), "out_stride": self.stride}
        pad = self.stride - math.prod(groups) * between if self.first + width == between else 0
        return args | {"out_group_stride": between, "pad": pad}


@dataclass(eq=False)
class Operator:
    """One kernel call per task; `part` is its name within its block.

    `after` are the operators (by number) that its row block waits for, and `cache_after` the one that writes the KV
    cache it reads, for which it waits in all row blocks up to its own.
    `experts`, if not 0, is how many groups it has: one for each expert in place of one for each row block; each
    row goes to `top_k` of them, and when a step runs, how many row tiles an expert has is in `counts`, and which have
    any in `listed`.
    """

    part: str
    kernel: str
    node: Node
    args: dict[str, Argument]
    kind: int = int(Kind.ROWS)
    after: list[int] = field(default_factory=list)
    cache_after: int | None = None
    experts: int = 0
    top_k: int = 0
    counts: Buffer | None = None
    listed: Buffer | None = None

    @property
    def name(self) -> str:
        """Unique in its program, "layers.3.qkv"."""
        return self.node.scope.name(self.part)

    def groups(self, blocks: int) -> int:
        """How many groups it has."""
        return self.experts or (1 if self.record.sync is Sync.ONCE else blocks)

    @property
    def record(self) -> Kernel:
        """What is known of its kernel."""
        return RECORDS[self.kernel]

    @property
    def logit_rows(self) -> bool:
        """Whether its row blocks hold logit rows."""
        return self.kind in (Kind.LOGITS, Kind.SAMPLE)

    def numbers(self) -> dict[str, int | float]:
        """Arguments as task.h has them; those of an absent field included. Buffers and weights must be placed."""
        return {name: self._number(self.args.get(name), kind) for name, kind in contract.FIELDS[self.kernel].items()}

    @property
    def tiles(self) -> int:
        """Tasks per row block, item or sampled row."""
        return self.record.tasks(self.args)

    @property
    def weight_bytes(self) -> int:
        """Bytes of packed weights that its tasks read, all together."""
        if self.record.looks_up:
            return 0
        return sum(value.bytes for value in self.args.values() if isinstance(value, Packed))

    @staticmethod
    def _number(value: Argument, kind: str) -> int | float:
        if value is None:
            return ABSENT[kind]
        return value.offset if isinstance(value, (Buffer, CachePart, View, Packed)) else value
