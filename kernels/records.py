"""One record a kernel: what the compiler, the planner and the pages need to know about it beside its arguments.

Everything that asks "which kernel is this" asks its record; names stand here, in lowering, reference and body alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ellm.kernels.contract import EXPAND_BYTES, EXPERT_ROWS, FOLD, PROBE_FLOPS, SPLIT, TILE, TILE_K, TILE_N
from ellm.kernels.formats import NUMBERED, PLAIN

Args = Mapping[str, Any]
"""An operator's arguments, as `contract.unpack` gives them."""

_HEADER = 64  # of a worker's scratch: panel.h
_LINE = 64
_SIDE = 16  # what goes with a tile of activations in whole numbers: activations.h
_EXPANDED_ROWS = 128  # positions that are multiplied at a time: expand_latent.pxi
_FOLD_PART = 64  # folded rows that are scored at a time: attend.pxi
_ROUTE_PASSES = 4  # of a row's scores, to find the top k
_TRANSPOSED = 4  # elements of values that are made of keys in the time of one f32 element: AMX, 30 against 6.8 a ns


class Sync(Enum):
    """What an operator waits for, and what waits for it, beyond its own row block."""

    BLOCK = "its row block: of each operator that it reads, and for each that reads it"
    CHAIN = "as BLOCK; who reads the cache it appends to waits for it in all row blocks up to its own"
    ORDERED = "as BLOCK; each row block also waits for the one before, as a state that takes in row after row needs"
    ALL = "each row block waits for all row blocks, and the step does not end before"
    ONCE = "one group of tasks for all row blocks, which waits for them all"
    WOKEN = "a group for each expert, which the ONCE operator before it publishes if the expert got rows"
    JOIN = "a group for each expert, after the WOKEN one; who reads it waits for those of all experts that got rows"


class Family(Enum):
    """What pictures draw in one colour: a label and the colour."""

    MATMUL = ("matrix product", "#2f6fb7")
    ATTENTION = ("attention", "#d0761c")
    EXPERTS = ("experts", "#7a4fb5")
    ROUTING = ("routing", "#c2457e")
    ROWS = ("row by row", "#3b8c5a")
    ENDS = ("step ends", "#5f6b7a")

    @property
    def label(self) -> str:
        """Its name for people."""
        return self.value[0]

    @property
    def colour(self) -> str:
        """As CSS writes it."""
        return self.value[1]


@dataclass(frozen=True)
class Work:
    """What an operator does over all of its tasks; numbers, or arrays of one shape for as many cases.

    Products are counted in floating-point operations, the rest in f32 elements that are read or written.
    """

    flops: Any = 0  # of products
    tile_flops: Any = 0  # of the same in whole tiles
    product_rows: Any = 1  # rows of A in a task's product
    weight_bytes: Any = 0  # packed
    cache_bytes: Any = 0  # keys and values that are read, each once
    panel: Any = 0  # elements that a worker converts before its first task
    operand: Any = 0  # bytes of rows, which other workers wrote, that a worker reads before its first task
    lines: Any = 0  # bytes that other workers wrote, which all tasks read between them
    elements: Any = 0
    exponentials: Any = 0  # of softmax
    ordered: Any = 0  # routed rows, and experts that they are sorted by
    sampled: Any = 0  # logits to choose from


Count = Callable[[Args], int]
DoneBy = Callable[[Args, Any, Any, Any], Work]


def _one(args: Args) -> int:
    return 1


@dataclass(frozen=True)
class Kernel:
    """What is so of one kernel.

    `tasks` are those of one operator on one row block; of an attention or merge item, of a block of the context, of a
    logit row, of a piece of the step, of a row tile of one expert. `memory` are bytes of a worker's scratch behind its
    header, from the arguments and the rows of a block. `work` is what is done for `rows` rows (of one expert) that
    attend to `keys` keys each, in `splits` leaves; of a kernel that works on cached positions, `keys` are these.
    """

    family: Family = Family.ROWS
    sync: Sync = Sync.BLOCK
    tasks: Count = _one
    memory: Callable[[Args, int], int] = lambda args, row_block: 0
    done: DoneBy = lambda args, rows, keys, splits: Work()
    matrix: str = "weight"  # the argument that is its packed weight, if it has one of that name
    looks_up: bool = False  # reads a few rows of its weight, not all of it
    attends: bool = False  # to the keys and values of a sequence
    shared: bool = False  # what it writes is for all row blocks: who reads it waits for all

    def scratch_bytes(self, args: Args, row_block: int) -> int:
        """Bytes of a worker's scratch that a task uses, header included."""
        return _HEADER + self.memory(args, row_block)

    @property
    def fences(self) -> bool:
        """Whether all parts of an operator are done before anything after it starts, in whatever row block."""
        return self.shared or self.sync in (Sync.ONCE, Sync.JOIN)

    def work(self, args: Args, rows: Any = 1, keys: Any = 0, splits: Any = 1) -> Work:
        """What an operator does: see the class."""
        return self.done(args, rows, keys, splits)


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


# Products with a packed weight ----------------------------------------------------------------------------------------


def _column_tasks(args: Args) -> int:
    return int(-(-args["n_tiles"] // args["task_tiles"]))


def _expansion(*formats: int) -> int:
    """Bytes in which a part of a weight is expanded, if any of the formats needs that."""
    return EXPAND_BYTES if any(NUMBERED[format] is not PLAIN for format in formats) else 0


def _product_memory(args: Args, row_block: int) -> int:
    """The task's f32 product, and bf16 tiles that a weight in another format is expanded to."""
    return row_block * TILE_N * (args["task_tiles"] | 1) * 4 + _expansion(args["format"])


def panel_row_bytes(k_tiles: int, activations: int) -> int:
    """Bytes from row to row of a panel, an odd number of cache lines; `activations`: whether in whole numbers."""
    size = _up(k_tiles, 2) * (_LINE + _SIDE) if activations else k_tiles * _LINE
    return (-(-size // _LINE) | 1) * _LINE


def _panel_memory(args: Args, row_block: int) -> int:
    """The panel of norm(x), its rows an odd number of cache lines apart, and the product."""
    return row_block * panel_row_bytes(args["k_tiles"], args["activations"]) + _product_memory(args, row_block)


def _matmul_memory(args: Args, row_block: int) -> int:
    """As _panel_memory, but bf16 rows that are multiplied as such are used where they are."""
    in_place = args["x_bf16"] and not args["activations"]
    return (_product_memory if in_place else _panel_memory)(args, row_block)


def _products(args: Args, rows: Any, columns: int, panel: bool, banks: int = 1) -> Work:
    """`columns` columns of each of `banks` weights, each multiplied by so many rows."""
    tiles = banks * args["n_tiles"]
    return Work(
        flops=2 * rows * args["k"] * columns * banks,
        tile_flops=2 * rows * TILE * tiles * args["k_tiles"],
        product_rows=rows,
        weight_bytes=tiles * NUMBERED[args["format"]].column_bytes(args["k_tiles"]),
        panel=rows * TILE_K * args["k_tiles"] if panel else 0,
        operand=rows * args["k"] * (2 if args["x_bf16"] else 4),
        elements=rows * TILE_N * tiles,
    )


def _matmul(columns: Count, **more: Any) -> Kernel:
    """A kernel that multiplies the rows of its block by one weight, of so many columns."""

    def done(args: Args, rows: Any, keys: Any, splits: Any) -> Work:
        return _products(args, rows, columns(args), not args["x_bf16"] or bool(args["activations"]))

    return Kernel(Family.MATMUL, tasks=_column_tasks, memory=_matmul_memory, done=done, **more)


# Attention ------------------------------------------------------------------------------------------------------------


def _kv_heads(args: Args) -> int:
    return int(args["kv_heads"])


def _stored_bytes(args: Args) -> int:
    """Bytes of a position that one KV head keeps: bf16, or int8 and two scales."""
    dims = int(args["head_dim"] + (0 if args["values_in_keys"] else args["value_dim"]))
    return dims + 8 if args["int8"] else 2 * dims


def _attend_memory(args: Args, row_block: int) -> int:
    """The struct Fold of attend.pxi.

    Per folded row the query, and of a span and of all before it a numerator and two scalars; of a part of the rows
    scores and p in place of the query; and what is made of a leaf: four column tiles of values that are in keys, or the
    keys and values that int8 means.
    """
    q_stride, s_stride = (TILE_K * (-(-n // TILE_K) | 1) for n in (args["head_dim"], SPLIT))
    o_stride = _up(args["value_dim"], TILE_N)
    tiles = 4 * SPLIT // TILE_K if args["values_in_keys"] else 0
    if args["int8"]:
        tiles = SPLIT // TILE_N * -(-args["head_dim"] // TILE_K) + SPLIT // TILE_K * (o_stride // TILE_N)
    rows = FOLD * (2 * q_stride + 2 * (4 * o_stride + 8))
    part = _FOLD_PART * (2 if args["values_in_keys"] else 1)
    return rows + part * (6 * s_stride + 4 * o_stride + 8) + 2 * TILE * tiles + 8 * SPLIT


def _attend(args: Args, rows: Any, keys: Any, splits: Any) -> Work:
    """Of a part of the heads, `rows` is a part of the rows."""
    flops = 2 * rows * keys * args["heads"] * (args["head_dim"] + args["value_dim"])
    transposed = keys * args["value_dim"] * args["kv_heads"] / _TRANSPOSED if args["values_in_keys"] else 0
    return Work(
        flops=flops,
        tile_flops=flops,
        product_rows=rows * (args["heads"] // args["kv_heads"]),
        cache_bytes=keys * args["kv_heads"] * _stored_bytes(args),
        lines=4 * rows * args["heads"] * args["head_dim"],
        elements=rows * args["heads"] * args["value_dim"] * (1 + splits) + transposed,
        exponentials=rows * keys * args["heads"],
    )


def _merge(args: Args, rows: Any, keys: Any, splits: Any) -> Work:
    elements = rows * splits * args["heads"] * args["value_dim"]
    return Work(elements=elements, lines=4 * elements)


def _expand_latent_memory(args: Args, row_block: int) -> int:
    """The panel of a split's cached keys, the product of some positions and expanded weights."""
    columns = _up(max(args["key_dim"] + args["rotary"], args["value_dim"]), TILE_N)
    panel = SPLIT * (-(-(args["latent"] + args["rotary"]) // TILE_K) | 1) * _LINE
    return panel + _EXPANDED_ROWS * columns * 4 + _expansion(args["to_keys_format"], args["to_values_format"])


def _expand_latent(args: Args, rows: Any, keys: Any, splits: Any) -> Work:
    dims = args["key_dim"] + args["value_dim"]
    flops = 2 * keys * args["heads"] * args["latent"] * dims
    return Work(
        flops=flops,
        tile_flops=flops,
        product_rows=keys,
        weight_bytes=args["heads"] * (args["to_keys_stride"] + args["to_values_stride"]),
        panel=keys * args["latent"],
        elements=keys * args["heads"] * (dims + args["rotary"]),
    )


# Row by row -----------------------------------------------------------------------------------------------------------


def _rows(elements: Count, family: Family = Family.ROWS, **more: Any) -> Kernel:
    """A kernel that works on so many elements of each row."""

    def done(args: Args, rows: Any, keys: Any, splits: Any) -> Work:
        return Work(elements=rows * elements(args), lines=4 * rows * elements(args))

    return Kernel(family, done=done, **more)


def _rms_norm(args: Args, rows: Any, keys: Any, splits: Any) -> Work:
    """As if each task had as many rows as the one with most."""
    elements = -(-rows // args["tasks"]) * args["tasks"] * args["groups"] * args["width"]
    return Work(elements=elements, lines=4 * elements)


def _dispatch(args: Args, rows: Any, keys: Any, splits: Any) -> Work:
    return Work(ordered=rows * args["top_k"] + args["experts"])


def _sample(args: Args, rows: Any, keys: Any, splits: Any) -> Work:
    return Work(sampled=rows * args["vocab"], lines=4 * rows * args["vocab"])


RECORDS: dict[str, Kernel] = {
    "embed": _rows(lambda args: args["width"], Family.ENDS, matrix="table", looks_up=True),
    "input_rows": _rows(lambda args: args["width"], Family.ENDS),
    "angles": _rows(lambda args: 8 * args["half"]),  # sines and cosines
    "gather": _rows(lambda args: args["width"], Family.ENDS, sync=Sync.ALL),
    "rms_norm": Kernel(tasks=lambda args: int(args["tasks"]), done=_rms_norm),
    "linear": _matmul(lambda args: args["n"]),
    "logits": _matmul(lambda args: args["n"]),
    "gate_up": _matmul(lambda args: 2 * args["n"]),
    "qkv": _matmul(
        lambda args: (args["heads"] + 2 * args["kv_heads"]) * args["head_dim"],
        sync=Sync.CHAIN,
    ),
    "head_linear": Kernel(
        Family.MATMUL,
        tasks=lambda args: int(args["heads"]) * _column_tasks(args),
        memory=_panel_memory,
        done=lambda args, rows, keys, splits: _products(args, rows, args["n"], True, args["heads"]),
    ),
    "rope": _rows(
        lambda args: args["heads"] * args["head_dim"],
        tasks=lambda args: -(-args["heads"] // args["task_heads"]),
        memory=lambda args, row_block: 4 * args["head_dim"],
    ),
    "append": _rows(
        lambda args: args["kv_heads"] * (args["head_dim"] + args["value_dim"]),
        Family.ATTENTION,
        sync=Sync.CHAIN,
        tasks=_kv_heads,
    ),
    "expand_latent": Kernel(
        Family.ATTENTION,
        Sync.ONCE,
        tasks=lambda args: int(args["heads"]),
        memory=_expand_latent_memory,
        done=_expand_latent,
    ),
    "attend": Kernel(Family.ATTENTION, tasks=_kv_heads, memory=_attend_memory, done=_attend, attends=True),
    "merge": Kernel(Family.ATTENTION, memory=lambda args, row_block: 8 * args["value_dim"], done=_merge),
    "swiglu": _rows(lambda args: 2 * args["width"]),
    "add": _rows(lambda args: args["width"]),
    "copy": _rows(
        lambda args: args["groups"] * args["width"],
        tasks=lambda args: -(-args["groups"] // args["task_groups"]),
    ),
    "route": _rows(
        lambda args: _ROUTE_PASSES * args["experts"],
        Family.ROUTING,
        # scores, choices; of groups score and number
        memory=lambda args, row_block: 8 * args["experts"] + 8 * args["groups"],
        shared=True,
    ),
    "dispatch": Kernel(Family.ROUTING, Sync.ONCE, done=_dispatch),
    "scatter": Kernel(
        Family.ROUTING,
        Sync.ONCE,
        done=lambda args, rows, keys, splits: Work(elements=rows * (1 + args["top_k"]) * args["k"]),
    ),
    "expert_gate_up": Kernel(
        Family.EXPERTS,
        Sync.WOKEN,
        tasks=_column_tasks,
        memory=lambda args, row_block: _product_memory(args, EXPERT_ROWS),
        done=lambda args, rows, keys, splits: _products(args, rows, 2 * args["n"], False),
    ),
    "expert_down": Kernel(
        Family.EXPERTS,
        Sync.JOIN,
        tasks=_column_tasks,
        memory=lambda args, row_block: (_panel_memory if args["activations"] else _product_memory)(args, EXPERT_ROWS),
        done=lambda args, rows, keys, splits: _products(args, rows, args["n"], bool(args["activations"])),
    ),
    "combine": _rows(
        lambda args: (1 + args["top_k"]) * args["n"],
        Family.EXPERTS,
        tasks=lambda args: -(-args["n"] // args["task_columns"]),
    ),
    "sample": Kernel(
        Family.ENDS,
        memory=lambda args, row_block: 12 * args["vocab"],  # penalised logits, weights and a heap of tokens
        done=_sample,
    ),
    "probe_read": Kernel(
        tasks=lambda args: int(args["tasks"]),
        memory=lambda args, row_block: 8,
        done=lambda args, rows, keys, splits: Work(weight_bytes=args["tasks"] * args["bytes"]),
    ),
    "probe_matmul": Kernel(
        tasks=lambda args: int(args["tasks"]),
        memory=lambda args, row_block: 4096,
        done=lambda args, rows, keys, splits: Work(flops=args["tasks"] * args["repeats"] * PROBE_FLOPS),
    ),
}
"""By the name that task.h's struct and the kernel's body bear."""


def families() -> list[dict[str, Any]]:
    """For pages: each family's label and colour, and the kernels in it."""
    return [
        {"label": one.label, "colour": one.colour, "kernels": [name for name in RECORDS if RECORDS[name].family is one]}
        for one in Family
    ]
