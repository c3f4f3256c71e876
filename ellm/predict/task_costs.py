"""What the tasks of a step cost on a machine: the `StepWork` that `ellm.scheduler.simulate` runs.

A task reads bytes of weights or of keys and values, and multiplies meanwhile for as long as its operations take at the
machine's rates; weights that are not bf16 are expanded too. What it does to f32 elements comes on top: the panel that
each worker's first task of an operator makes of the rows, its results, softmax.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ellm.kernels import contract
from ellm.kernels.contract import FOLD, FORMATS, SAMPLING, SPLIT
from ellm.machine.description import Machine
from ellm.predict.routes import expert_operators
from ellm.scheduler import StepInput, StepTables
from ellm.scheduler.program import Kind, Lists, Program
from ellm.scheduler.simulate import StepWork, needed_signals

BITS = {"bf16": 16.0, "f16": 16.0, "fp8": 8 + 32 / (128 * 128), "mxfp4": 4.25, "int8": 8.5, "int4": 4.5}
"""Bits of a weight with its scales. int8 and int4 exist on paper only: an f16 scale per 32 weights, as GGUF has it."""

_EXPANDED_AS = {"fp8": "fp8", "int8": "fp8", "mxfp4": "mxfp4", "int4": "mxfp4"}
_NAMES = {number: name for name, number in FORMATS.items()}
_MATMULS = ("linear", "logits", "gate_up", "qkv", "head_linear", "expert_gate_up", "expert_down")
_ROUTE_PASSES = 4  # of a row's scores, to find the top k
_DISPATCH_NS = 4  # per routed row and per expert
Args = Mapping[str, Any]


@dataclass
class Costs:
    """Of the tasks of some items, each float64 [items]."""

    bytes: np.ndarray
    ns: np.ndarray  # while it reads
    more_ns: np.ndarray  # before or after
    panel_ns: np.ndarray  # more of that in a worker's first task


@dataclass
class Shape:
    """A step: `rows` rows of each of `sequences`, from position `begin` on; each one's last row is sampled."""

    sequences: int
    begin: int
    rows: int

    def step(self, vocab: int) -> StepInput:
        """The rows, for StepTables."""
        count = self.sequences
        return StepInput(
            tokens=np.zeros(count * self.rows, np.int32),
            positions=np.tile(np.arange(self.begin, self.begin + self.rows, dtype=np.int32), count),
            slots=np.repeat(np.arange(count, dtype=np.int32), self.rows),
            ranges=np.zeros(count, np.uint64),
            logit_row=np.arange(1, count + 1, dtype=np.int32) * self.rows - 1,
            logits=np.empty((count, vocab), np.float32),
            sampling=np.zeros(count, SAMPLING),
            sampled=np.zeros(count, np.int32),
            logprob=np.zeros(count, np.float32),
        )


@dataclass
class Costing:
    """The rules: a machine's rates and the precision that weights are thought to have.

    `dtype` None: as they are. Else every matrix has that but those that checkpoints of such a dtype leave alone: the
    head, the embedding and the routers, and for MXFP4 all but the experts of a model that has any.
    """

    program: Program
    machine: Machine
    dtype: str | None = None
    routers: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        operators = self.program.meta["operators"]
        self.routers = {before for one in operators if one["kernel"] == "route" for before in one["after"]}
        self.sparse = any(one["experts"] for one in operators)

    def format(self, op: int, native: str) -> str:
        """The precision of an operator's weights."""
        operator = self.program.meta["operators"][op]
        if self.dtype is None or not native:
            return native
        if self.dtype == "bf16":
            return "bf16"
        if operator["kernel"] in ("logits", "embed") or op in self.routers:
            return native
        if self.dtype == "mxfp4" and self.sparse and not operator["experts"]:
            return native
        return self.dtype

    def scaled(self, op: int, native: str) -> float:
        """How much larger an operator's weights are in that precision."""
        return BITS[self.format(op, native)] / BITS[native] if native else 1.0

    def weight_bytes(self) -> float:
        """All packed weights in the precision."""
        operators = enumerate(self.program.meta["operators"])
        extra = sum(one["weight_bytes"] * (self.scaled(op, one["precision"]) - 1) for op, one in operators)
        return self.program.weights_bytes + extra

    def step_bytes(self, routes: Mapping[int, np.ndarray]) -> float:
        """Weights that a step must read, without padding: of operators of experts those that `routes` gives rows."""
        hits = {op: np.count_nonzero(rows) for op, rows in routes.items()}
        return sum(
            one["token_bytes"] * self.scaled(op, one["precision"]) * (hits[op] / one["top_k"] if op in hits else 1)
            for op, one in enumerate(self.program.meta["operators"])
        )

    # Kernels ----------------------------------------------------------------------------------------------------------

    def matmul(self, op: int, kernel: str, args: Args, rows: np.ndarray) -> Costs:
        """A column task of rows [items] by packed weights."""
        machine, native = self.machine, _NAMES[args["format"]]
        tasks = -(-args["n_tiles"] // args["task_tiles"])
        tiles = args["n_tiles"] / tasks
        size = tiles * contract.column_bytes(args["format"], args["k_tiles"]) * self.scaled(op, native)
        flops = 2 * self.padded(rows) * 16 * tiles * 32 * args["k_tiles"]
        precision = self.format(op, native)
        ns = flops / (1000 * machine.matmul_tflops_per_core)
        if precision in _EXPANDED_AS:
            rates = {"fp8": machine.expand_fp8_gb_per_s_per_core, "mxfp4": machine.expand_mxfp4_gb_per_s_per_core}
            ns = ns + size / rates[_EXPANDED_AS[precision]]
        else:
            ns = np.maximum(ns, size / machine.llc_read_gb_per_s_per_core) * (2 if precision == "f16" else 1)
        panel = self.elements(rows * 32 * args["k_tiles"]) if self.has_panel(kernel, args) else np.zeros(len(rows))
        return Costs(np.full(len(rows), size), ns, self.elements(rows * 16 * tiles), panel)

    def has_panel(self, kernel: str, args: Args) -> bool:
        """Whether a worker converts or gathers the rows before it multiplies."""
        return kernel in ("expert_gate_up", "head_linear") or (kernel != "expert_down" and not args["x_bf16"])

    def padded(self, rows: np.ndarray) -> np.ndarray:
        """Rows that a multiplication pays for."""
        return -(-rows // self.machine.matmul_rows) * self.machine.matmul_rows

    def elements(self, count: Any) -> Any:
        """Nanoseconds for work on f32 elements."""
        return count / self.machine.row_gelements_per_s_per_core

    def attend(self, args: Args, items: np.ndarray) -> Costs:
        """A head group of attention items (ATTEND_ITEM [items])."""
        machine = self.machine
        shared = args["heads"] // args["kv_heads"]
        heads = -(-shared // -(-shared // FOLD))
        first = np.maximum(
            items["split_begin"].astype(np.int64) * SPLIT, _window_begin(items["position"], args["window"])
        )
        last = np.minimum(items["split_end"].astype(np.int64) * SPLIT, items["position"] + items["rows"])
        keys, rows = np.maximum(0, last - first), items["rows"] * heads
        stored = args["head_dim"] + (0 if args["values_in_keys"] else args["value_dim"])
        size = 2.0 * keys * stored
        flops = 2.0 * self.padded(rows) * keys * (args["head_dim"] + args["value_dim"])
        ns = np.maximum(flops / (1000 * machine.matmul_tflops_per_core), size / machine.llc_read_gb_per_s_per_core)
        splits = items["split_end"] - items["split_begin"]
        more = rows * keys / machine.softmax_gelements_per_s_per_core
        more = more + self.elements(rows * args["value_dim"] * (1 + splits))
        if args["values_in_keys"]:
            more = more + self.elements(keys * args["value_dim"])
        return Costs(size, ns, more, np.zeros(len(items)))

    def expand_latent(self, args: Args, keys: np.ndarray) -> Costs:
        """A head of splits that have so many keys: weights, the products, and keys and values stored."""
        flops, written = contract.cost("expand_latent", args, rows=1, keys=1)
        size = args["to_keys_stride"] + args["to_values_stride"]
        ns = self.padded(keys) * flops / args["heads"] / (1000 * self.machine.matmul_tflops_per_core)
        more = self.elements(keys * written / args["heads"] / 2)
        return Costs(np.full(len(keys), float(size)), ns, more, self.elements(keys * args["latent"]))

    def merge(self, args: Args, items: np.ndarray) -> Costs:
        """A head group of MERGE_ITEM [items]."""
        shared = args["heads"] // args["kv_heads"]
        heads = -(-shared // -(-shared // FOLD))
        return self.plain(self.elements(items["rows"] * items["splits"].astype(float) * heads * args["value_dim"]))

    def row_kernel(self, kernel: str, args: Args, rows: np.ndarray, total: int) -> Costs:
        """A task of a kernel that multiplies no matrix, on rows [items] of `total`."""
        width = {
            "embed": lambda: args["width"],
            "angles": lambda: 8 * args["half"],  # sines and cosines
            "gather": lambda: args["width"],
            "rms_norm": lambda: args["groups"] * args["width"],
            "rope": lambda: args["heads"] * args["head_dim"],
            "append": lambda: args["head_dim"] + args["value_dim"],
            "swiglu": lambda: 2 * args["width"],
            "add": lambda: args["width"],
            "copy": lambda: args["groups"] * args["width"],
            "route": lambda: _ROUTE_PASSES * args["experts"],
            "combine": lambda: (1 + args["top_k"]) * min(args["n"], args["task_columns"]),
        }
        if kernel == "dispatch":
            return self.plain(np.full(len(rows), _DISPATCH_NS * (total * args["top_k"] + args["experts"])))
        if kernel == "sample":
            return self.plain(np.full(len(rows), args["vocab"] / self.machine.sample_gelements_per_s_per_core))
        return self.plain(self.elements(rows * float(width[kernel]())))

    def plain(self, ns: np.ndarray) -> Costs:
        """Work that reads no weights."""
        zero = np.zeros(len(ns))
        return Costs(zero, zero, np.asarray(ns, float), zero)


def step_work(costing: Costing, shape: Shape, threads: int, routes: Mapping[int, np.ndarray]) -> StepWork:
    """The tasks of a step on so many workers. Raises ValueError if the program cannot run such a step.

    `routes` has the rows that each expert gets, by operator of experts: int [experts].
    """
    tables = StepTables(costing.program, threads).fill(shape.step(costing.program.vocab))
    return _Builder(costing, tables, routes).build()


class _Builder:
    def __init__(self, costing: Costing, tables: Any, routes: Mapping[int, np.ndarray]):
        self.costing, self.program, self.tables, self.routes = costing, costing.program, tables, routes
        groups = self.program.groups
        static = groups["counts"] < 0
        self.count = np.where(static, tables.counts[groups["kind"], np.where(static, groups["block"], 0)], 0)
        self.item_begin = np.zeros(len(groups), np.int64)
        self.parts: list[Costs] = []
        self.key_parts: list[np.ndarray] = []
        self.local: list[np.ndarray] = []
        self.items = self.keys = 0
        self.first = np.searchsorted(groups["op"], np.arange(len(self.program.op_names) + 1))
        assert np.all(np.diff(groups["op"]) >= 0)

    def build(self) -> StepWork:
        for op in range(len(self.program.op_names)):
            self.operator(op)
        parts = self.parts
        return StepWork(
            count=self.count.astype(np.int32),
            needed=needed_signals(self.program, self.tables.counts),
            woken=Lists.of(self.woken()),
            item_begin=self.item_begin,
            item_key=np.concatenate(self.key_parts).astype(np.int64),
            item_bytes=np.concatenate([part.bytes for part in parts]),
            item_ns=np.concatenate([part.ns for part in parts]),
            item_more_ns=np.concatenate([part.more_ns for part in parts]),
            item_panel_ns=np.concatenate([part.panel_ns for part in parts]),
            item_local=np.concatenate(self.local).astype(np.int8),
            keys=self.keys,
        )

    def woken(self) -> list[list[int]]:
        """Wake -> the groups that it publishes."""
        found = []
        for number, wake in enumerate(self.program.wakes):
            gate_up, _ = expert_operators(self.program, number)
            found.append((int(wake["first"]) + np.flatnonzero(self.routes[gate_up])).tolist())
        return found

    def operator(self, op: int) -> None:
        kernel = self.program.kernels[self.program.op_kernel[op]]
        args = contract.unpack(kernel, self.program.args[op])
        groups = slice(self.first[op], self.first[op + 1])
        kind = int(self.program.groups["kind"][groups.start])
        tiles = int(self.program.groups["tiles"][groups.start])
        if op in self.routes:
            self.experts(op, kernel, args, groups, tiles)
        elif kernel == "attend":
            items = self.tables.items[args["window_class"]]
            self.add(groups, self.costing.attend(args, items), self.item_keys(items, tiles), local=1)
        elif kernel == "expand_latent":
            sequences, last = len(np.unique(self.tables.slots)), int(self.tables.positions.max())
            keys = sequences * np.minimum(SPLIT, last + 1 - np.arange(0, last + 1, SPLIT))
            self.add(groups, self.costing.expand_latent(args, keys), np.full(len(keys), self.take_keys(tiles)), local=0)
        elif kernel == "merge":
            items = self.tables.merges[args["window_class"]]
            self.add(groups, self.costing.merge(args, items), np.full(len(items), -1), local=1)
        else:
            total = self.tables.logit_rows if self.program.groups["logit_rows"][groups.start] else self.tables.rows
            size = self.program.row_block
            rows = np.minimum(total - np.arange(0, total, size), size).astype(float)
            if kernel in _MATMULS:
                keys = np.full(len(rows), self.take_keys(tiles))
                self.add(groups, self.costing.matmul(op, kernel, args, rows), keys, local=0)
            else:
                one = np.ones(total) if kind == Kind.SAMPLE else rows[: int(self.count[groups].sum())]
                self.add(groups, self.costing.row_kernel(kernel, args, one, total), np.full(len(one), -1), local=1)

    def experts(self, op: int, kernel: str, args: Args, groups: slice, tiles: int) -> None:
        """One item for each row tile of each expert."""
        rows, size = self.routes[op], self.program.row_block
        count = -(-rows // size)
        self.count[groups] = count
        number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)  # of the tile within its expert
        tile_rows = np.minimum(np.repeat(rows, count) - size * number, size).astype(float)
        first = self.take_keys(tiles * len(rows))
        keys = first + tiles * np.repeat(np.arange(len(rows)), count)
        self.add(groups, self.costing.matmul(op, kernel, args, tile_rows), keys, local=0)

    def add(self, groups: slice, costs: Costs, keys: np.ndarray, local: int) -> None:
        """Append the items of an operator's groups, in order of group."""
        counts = self.count[groups]
        assert counts.sum() == len(costs.ns), (groups, counts, len(costs.ns))
        self.item_begin[groups] = self.items + np.cumsum(counts) - counts
        self.items += len(costs.ns)
        self.parts.append(costs)
        self.key_parts.append(keys)
        self.local.append(np.full(len(keys), local))

    def take_keys(self, count: int) -> int:
        self.keys += count
        return self.keys - count

    def item_keys(self, items: np.ndarray, tiles: int) -> np.ndarray:
        """Items that attend to the same keys of a sequence share them."""
        kept = np.stack([items["slot"], items["split_begin"], items["split_end"]], axis=1)
        _, same = np.unique(kept, axis=0, return_inverse=True)
        same = same.ravel()
        return self.take_keys(tiles * (int(same.max(initial=-1)) + 1)) + tiles * same


def _window_begin(position: np.ndarray, window: int) -> np.ndarray:
    """The first key that a row at `position` sees."""
    return np.maximum(0, position.astype(np.int64) - window + 1) if window else np.zeros(len(position), np.int64)
