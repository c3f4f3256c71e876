"""What a Program says of itself beside its arrays: its operators, packed weights, caches and the plan of its arena.

Plain data, for whoever loads weights, shows a program or predicts it; a saved program holds it as JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ellm.kernels.contract import SPLIT
from ellm.kernels.formats import FORMATS, PLAIN, Format

Run = tuple[int, ...]
"""(source, first row, rows, first column), and the step from row to row if it is not 1: these rows of a source become
packed columns from the first one on; of a vector, its elements positions."""


@dataclass(frozen=True)
class NamedTensor:
    """A tensor of a checkpoint."""

    name: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}{list(self.shape)}"


@dataclass(frozen=True)
class OperatorInfo:
    """What is known of an operator besides its arguments.

    A block is one of a list of modules, such as layers; an operator without one has layer -1.
    """

    part: str  # its name within its block, "qkv"
    kernel: str
    block: str = ""  # the list of modules, "layers"
    layer: int = -1  # the number in it
    line: str = ""  # of the model
    shape: str = ""  # of its value, "[T, 1024]"
    weights: dict[str, NamedTensor] = field(default_factory=dict)  # by role, as the model sees them
    after: tuple[int, ...] = ()  # numbers of the operators that its row block waits for
    tiles: int = 0  # tasks per row block; per item of attend and merge, piece, row of sample, row tile of an expert
    flops: int = 0  # floating-point operations per row
    flops_per_key: int = 0  # per row and key that it attends to
    weight_bytes: int = 0  # read once per row block, by all tasks; of experts, those of all
    token_bytes: int = 0  # of weights that one row needs, without padding
    precision: str = ""  # the format of its packed matrix; "": it has none
    experts: int = 0  # 0: it has none
    top_k: int = 0  # experts that a row goes to

    @property
    def name(self) -> str:
        """Unique in its program, "layers.3.qkv"."""
        return f"{self.block}.{self.layer}.{self.part}" if self.block else self.part

    @property
    def kind(self) -> str:
        """The same name for all layers, "layers.*.qkv"."""
        return self.unnumbered(self.name)

    def unnumbered(self, text: str) -> str:
        """A text that names parts of its block, as it is for all layers."""
        return text.replace(f"{self.block}.{self.layer}.", f"{self.block}.*.") if self.block else text


@dataclass(frozen=True)
class Source:
    """A checkpoint's tensor that a packed weight, or each matrix of a bank, is made of."""

    name: str  # with "{expert}" in it, matrix i is the tensor with i in its place
    shape: tuple[int, ...]  # as stored: [rows, k], or as `Format.source_shape` says; [n]; [experts, ...] if stacked
    stacked: bool = False  # the first axis is the matrix of the bank
    transposed: bool = False  # stored as [k, rows]
    head_rows: int = 0  # matrix i begins at stored row i * head_rows: at this row, or at this k if transposed
    first_k: int = 0  # the source's k that becomes the first packed one
    format: str = PLAIN.name  # of a matrix: the name of what it is stored in
    scales: NamedTensor | None = None  # named and stacked like the source: one for each `Format.scale_block`
    line: str = field(default="", compare=False)  # of the model, whose shape it is


@dataclass(frozen=True)
class WeightEntry:
    """A packed weight, or a *bank* of weights of one shape (experts or heads): matrix i at offset + i * bank_stride."""

    name: str  # for messages
    layout: str  # "tiles", "vector" (f32) or "constant" (f32)
    bytes: int  # of all of it; of a bank, experts * bank_stride
    offset: int = -1  # in the weights region
    layer: int = -1
    sources: tuple[Source, ...] = ()
    runs: tuple[Run, ...] = ()  # of every matrix; what no run names is zero
    values: tuple[float, ...] = ()  # of a constant, instead of sources and runs
    format: str = ""  # of tiles: its name in `ellm.kernels.formats`
    k: int = 0
    k_tiles: int = 0
    n_tiles: int = 0
    task_tiles: int = 0
    experts: int = 1  # matrices; 1: no bank
    bank_stride: int = 0  # bytes from one matrix to the next
    one_group: bool = False  # all matrices are one group's tasks, matrix by matrix; else each has a group and homes

    @property
    def packed(self) -> Format:
        """What its tiles are in."""
        return FORMATS[self.format]

    @property
    def spill_bytes(self) -> int:
        """Bytes that it may take behind all weights, if its blocks do not fit their formats."""
        if not self.format or not self.packed.spill_bytes:
            return 0
        columns = self.experts * self.n_tiles
        return columns * self.packed.column_bytes(self.k_tiles) // self.packed.block_bytes * self.packed.spill_bytes

    @property
    def precision(self) -> str:
        """The name of what its numbers are kept in."""
        return self.format or "f32"


@dataclass(frozen=True)
class CacheKind:
    """How a cache grows with its sequence, and what may be done with it."""

    name: str
    position_bytes: int = 0  # that each position adds, without padding
    sequence_bytes: int = 0  # of a sequence, however long
    window: int = 0  # positions up to a row that it can reach; 0: all
    cuttable: bool = True  # it can be taken back to any position; else only to none, by computing it anew
    idempotent: bool = True  # to write positions again changes nothing
    kept: bool = True  # else it serves the rows of a prompt, and is given back when that is computed

    def kept_of(self, positions: int, chunk: int) -> int:
        """Positions that a sequence of so many keeps at most, in steps of `chunk` rows, if it will not be cut back.

        Whole blocks of SPLIT before a window are given back.
        """
        return min(positions, self.window + chunk + 2 * SPLIT) if self.window else positions


@dataclass(frozen=True)
class CacheEntry:
    """A cache that a sequence keeps from step to step, and where it is in the sequence's range."""

    name: str  # "cache.3"
    layer: int  # that writes it; -1: none
    kind: CacheKind
    offset: int  # in each block of the range; of a state, and of what serves a prompt alone, in the range
    bytes: int  # for the whole context, with padding
    heads: int = 1  # of a block: runs of bytes one after the other, each keys, then values
    key_bytes: int = 0  # of a head's keys in a block


@dataclass(frozen=True)
class HiddenRows:
    """Where a step leaves the final hidden state of its rows until the next one, and the norm that is still to come."""

    offset: int  # in the section of the row's block: f32 [rows, width]
    width: int
    norm: int = -1  # its weights, f32 [width], in the weights region; -1: it has been normed
    eps: float = 0.0


@dataclass(frozen=True)
class PlannedBuffer:
    """Bytes of the arena; `first` and `last` are the operators that access them so."""

    name: str
    offset: int
    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class ArenaPlan:
    """The buffers of a row block's section and of what all share, in order of address, and the least bytes of each."""

    section_bytes: int = 0
    lower_bound: int = 0
    buffers: tuple[PlannedBuffer, ...] = ()
    shared_bytes: int = 0
    shared_lower_bound: int = 0
    shared_buffers: tuple[PlannedBuffer, ...] = ()
