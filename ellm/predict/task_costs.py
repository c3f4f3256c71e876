"""What the tasks of a step cost on a machine: the `StepWork` that `ellm.scheduler.simulate` runs.

A task reads bytes of weights or of keys and values, and multiplies meanwhile for as long as its operations take at the
machine's rates; weights that are not bf16 are expanded too, before, or meanwhile where that is all that a format is
for, unless they meet activations in whole numbers, which have rates of their own. What it does to f32 elements comes on
top: the panel that each worker's first task of an operator makes of the rows, its results, softmax.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ellm.kernels import contract
from ellm.kernels.contract import EXPERT_ROWS, LEAF, PIECE, SAMPLING, SPAN, SPLIT
from ellm.kernels.formats import FORMATS, PLAIN, Format
from ellm.kernels.records import RECORDS, Sync, Work
from ellm.machine.description import Machine
from ellm.predict.routes import expert_operators
from ellm.scheduler import StepInput, StepTables
from ellm.scheduler.program import Kind, Lists, Program
from ellm.scheduler.simulate import IN_DOMAIN, StepWork, needed_signals

_ORDERED_NS = 4  # to sort a routed row, or an expert
_FEW = 16  # rows that AMX multiplies in whole numbers by vectors: activations.h
_LINE = 64
_IN_FLIGHT = 18
"""Lines that others wrote which a core has on their way at once. Measured between two cores of a Xeon with AMX:
82 ns for one line, 4.6 ns more for each of 512 in a row."""


_READER = -1.0  # what is read lies with whoever reads it


@dataclass
class Costs:
    """Of the tasks of some items, each float64 [items]."""

    bytes: np.ndarray
    ns: np.ndarray  # while it reads
    more_ns: np.ndarray  # before or after
    panel_ns: np.ndarray  # more of that in a worker's first task of an item


@dataclass
class Shape:
    """A step: `rows` rows of each of `sequences`, from position `begin` on; each one's last row is sampled."""

    sequences: int
    begin: int
    rows: int

    def step(self, vocab: int) -> StepInput:
        """The rows, for StepTables."""
        count = self.sequences
        return StepInput.of(
            np.tile(np.arange(self.begin, self.begin + self.rows), count),
            slots=np.repeat(np.arange(count), self.rows),
            logit_row=np.arange(1, count + 1) * self.rows - 1,
            vocab=vocab,
            sampling=np.zeros(count, SAMPLING),
        )


@dataclass
class Costing:
    """The rules: a machine's rates."""

    program: Program
    machine: Machine
    threads: int

    def step_bytes(self, routes: Mapping[int, np.ndarray]) -> float:
        """Weights that a step must read, without padding: of operators of experts those that `routes` gives rows."""
        hits = {op: np.count_nonzero(rows) for op, rows in routes.items()}
        return sum(
            one.token_bytes * (hits[op] / one.top_k if op in hits else 1)
            for op, one in enumerate(self.program.operators)
        )

    def task(self, op: int, work: Work, items: int) -> Costs:
        """One task of the operator, for each item that the work is given for."""
        machine = self.machine
        operator = self.program.operators[op]
        tasks, format = operator.tiles, FORMATS[operator.precision or PLAIN.name]
        args = contract.unpack(operator.kernel, self.program.args[op])
        weights = work.weight_bytes / tasks
        size = weights + work.cache_bytes / tasks
        padding = self.padded(work.product_rows) / work.product_rows
        ns = work.tile_flops * padding / tasks / (1000 * machine.matmul_tflops_per_core)
        if args.get("activations"):
            ns = work.tile_flops / tasks / (1000 * machine.matmul_tflops_per_core)
            ns = ns / self.whole_share(format, work.product_rows)
        else:
            ns = self.beside_expansion(format, weights, ns * format.terms)
            ns = np.maximum(ns, (size + self.passed_again(args, work)) / machine.llc_read_gb_per_s_per_core)
        more = self.elements(work.elements / tasks)
        more = more + work.exponentials / tasks / machine.softmax_gelements_per_s_per_core
        more = more + work.ordered * _ORDERED_NS + work.sampled / machine.sample_gelements_per_s_per_core
        more = more + self.moved(work.lines / tasks)
        panel = self.elements(work.panel) + self.moved(work.operand)
        found = (np.broadcast_to(np.asarray(one, float), items) for one in (size, ns, more, panel))
        return Costs(*found)

    def beside_expansion(self, format: Format, weights: Any, ns: Any) -> Any:
        """The time of products with that of making bf16 tiles of a weight.

        AMX multiplies while the rest of a core expands. A Xeon with AMX, 256 rows (docs/speed.md, model 167): FP8 2.24
        TFLOP/s, bf16 2.31; one row from L2 (ARCHITECTURE.md): 40 ns a tile of FP8, which is what expanding it takes.
        """
        if format.bits >= PLAIN.bits or format.packs:
            return ns
        expansion = weights / self.expanded_gb_per_s(format)
        return np.maximum(ns, expansion) if self.machine.isa == "amx" else ns + expansion

    def passed_again(self, args: Mapping[str, Any], work: Work) -> Any:
        """Bytes of A that a task's product reads from beyond L2: all of it, once, if it does not stay there.

        So does bench/tiles.py count them. A Xeon with AMX (ARCHITECTURE.md), 256 rows, in percent of the peak: k 1024
        73, k 4096, whose 2 MiB are all of L2, 40; this gives 38, of the half that is taken as reachable.
        """
        a = work.product_rows * 2 * args["k"] if np.any(work.tile_flops) and "k" in args else 0
        return np.where(a >= 1024 * self.machine.l2_kib_per_core, a, 0)

    def expanded_gb_per_s(self, format: Format) -> float:
        """Packed bytes that a core expands to bf16, as measured of a format of a byte a weight, and of half a byte."""
        machine = self.machine
        return machine.expand_fp8_gb_per_s_per_core if format.bits == 8 else machine.expand_mxfp4_gb_per_s_per_core

    def whole_share(self, format: Format, rows: Any) -> Any:
        """The rate of multiplications in whole numbers to that of bf16 ones, as kernels/routes.py has them measured."""
        if self.machine.isa != "amx":
            return np.where(rows > 1, 0.85, 0.5)
        many = (0.25 if format.nested else 0.15) * rows / self.padded(rows)
        return np.where(rows > _FEW, many, np.where(rows > 1, 0.1, 0.05))

    def padded(self, rows: Any) -> Any:
        """Rows that a multiplication pays for."""
        return -(-rows // self.machine.matmul_rows) * self.machine.matmul_rows

    def moved(self, size: Any) -> Any:
        """Nanoseconds until bytes that all workers wrote between them have come from their caches."""
        others = (self.threads - 1) / self.threads
        return others * self.machine.far_ns / _IN_FLIGHT * (size / _LINE + _IN_FLIGHT * (np.asarray(size) > 0))

    def elements(self, count: Any) -> Any:
        """Nanoseconds for work on f32 elements."""
        return count / self.machine.row_gelements_per_s_per_core


def step_work(costing: Costing, shape: Shape, threads: int, routes: Mapping[int, np.ndarray]) -> StepWork:
    """The tasks of a step on so many workers. Raises ValueError if the program cannot run such a step.

    `routes` has the rows that each expert gets, by operator of experts: int [experts].
    """
    domains = len(np.unique(costing.machine.workers(threads).domain_of))
    tables = StepTables(costing.program, threads, domains).fill(shape.step(costing.program.vocab))
    return _Builder(costing, tables, routes, domains).build()


class _Builder:
    def __init__(self, costing: Costing, tables: StepTables, routes: Mapping[int, np.ndarray], domains: int):
        self.domains = domains
        self.costing, self.program, self.tables, self.routes = costing, costing.program, tables, routes
        groups = self.program.groups
        static = groups["counts"] < 0
        self.count = np.where(static, tables.counts[groups["kind"], np.where(static, groups["block"], 0)], 0)
        self.item_begin, self.expert_rows = np.zeros(len(groups), np.int64), np.zeros(len(groups), np.int64)
        self.parts: list[Costs] = []
        self.key_parts: list[np.ndarray] = []
        self.homes: list[np.ndarray] = []
        self.items = self.keys = 0
        self.first = np.searchsorted(groups["op"], np.arange(len(self.program.op_names) + 1))
        assert np.all(np.diff(groups["op"]) >= 0)

    def build(self) -> StepWork:
        for op in range(len(self.program.op_names)):
            self.operator(op)
        parts = self.parts
        return StepWork(
            count=self.count.astype(np.int32),
            rows=self.expert_rows,
            row_blocks=-(-self.tables.rows // self.program.row_block),
            needed=needed_signals(self.program, self.tables.counts),
            woken=Lists.of(self.woken()),
            item_begin=self.item_begin,
            item_key=np.concatenate(self.key_parts).astype(np.int64),
            item_bytes=np.concatenate([part.bytes for part in parts]),
            item_ns=np.concatenate([part.ns for part in parts]),
            item_more_ns=np.concatenate([part.more_ns for part in parts]),
            item_panel_ns=np.concatenate([part.panel_ns for part in parts]),
            item_home=np.concatenate(self.homes),
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
        """Append the items of an operator's groups: which rows each has, and which keys they see."""
        kernel = self.program.kernels[self.program.op_kernel[op]]
        record, args = RECORDS[kernel], contract.unpack(kernel, self.program.args[op])
        groups = slice(self.first[op], self.first[op + 1])
        first = self.program.groups[groups.start]
        kind, tiles = int(first["kind"]), int(first["tiles"])
        if op in self.routes:
            rows, keys = self.experts(self.routes[op], groups, tiles)
            self.add(op, groups, record.work(args, rows), keys)
        elif Kind.attends(kind):
            items = self.tables.items[args["window_class"]]
            work = record.work(args, items["rows"] / items["head_parts"], _seen(items, args["window"]), _leaves(items))
            self.add(op, groups, work, self.item_keys(items, tiles), _home_of(items, self.domains))
        elif Kind.merges(kind):
            merges = self.tables.merges[args["window_class"]]
            work = record.work(args, merges["rows"] / merges["head_parts"], splits=merges["units"])
            self.add(op, groups, work, np.full(len(merges), -1), _READER)
        elif kind == Kind.PIECES:
            rows = np.minimum(self.tables.rows - np.arange(0, self.tables.rows, PIECE), PIECE).astype(float)
            self.add(op, groups, record.work(args, rows), np.full(len(rows), -1), _READER)
        elif kind == Kind.SPLITS:
            sequences, last = len(np.unique(self.tables.slots)), int(self.tables.positions.max())
            seen = sequences * np.minimum(SPLIT, last + 1 - np.arange(0, last + 1, SPLIT))
            self.add(op, groups, record.work(args, keys=seen), np.full(len(seen), self.take_keys(tiles)), _READER)
        else:
            rows = self.rows(kind, bool(first["logit_rows"]), record.sync)
            work = record.work(args, rows)
            if np.any(work.weight_bytes):
                self.add(op, groups, work, np.full(len(rows), self.take_keys(tiles)))
            else:
                self.add(op, groups, work, np.full(len(rows), -1), _READER)

    def rows(self, kind: int, logit_rows: bool, sync: Sync) -> np.ndarray:
        """Rows of each item: a row block's, a sampled one, or all of them at once."""
        total = self.tables.logit_rows if logit_rows else self.tables.rows
        if kind == Kind.SAMPLE:
            return np.ones(total)
        if sync is Sync.ONCE:
            return np.full(1, float(total))
        size = self.program.row_block
        return np.minimum(total - np.arange(0, total, size), size).astype(float)

    def experts(self, rows: np.ndarray, groups: slice, tiles: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and keys of one item for each row tile of each expert."""
        size = EXPERT_ROWS
        count = -(-rows // size)
        self.count[groups], self.expert_rows[groups] = count, rows
        number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)  # of the tile within its expert
        tile_rows = np.minimum(np.repeat(rows, count) - size * number, size).astype(float)
        first = self.take_keys(tiles * len(rows))
        return tile_rows, first + tiles * np.repeat(np.arange(len(rows)), count)

    def add(self, op: int, groups: slice, work: Work, keys: np.ndarray, home: Any = 0) -> None:
        """Append the items of an operator's groups, in order of group."""
        counts, costs = self.count[groups], self.costing.task(op, work, len(keys))
        assert counts.sum() == len(costs.ns), (groups, counts, len(costs.ns))
        self.item_begin[groups] = self.items + np.cumsum(counts) - counts
        self.items += len(costs.ns)
        self.parts.append(costs)
        self.key_parts.append(keys)
        self.homes.append(np.broadcast_to(np.asarray(home, float), len(keys)))

    def take_keys(self, count: int) -> int:
        self.keys += count
        return self.keys - count

    def item_keys(self, items: np.ndarray, tiles: int) -> np.ndarray:
        """Items that attend to the same keys of a sequence share them."""
        kept = np.stack([items["slot"], items["key_begin"], items["key_end"]], axis=1)
        _, same = np.unique(kept, axis=0, return_inverse=True)
        same = same.ravel()
        return self.take_keys(tiles * (int(same.max(initial=-1)) + 1)) + tiles * same


def _home_of(items: np.ndarray, domains: int) -> np.ndarray:
    """Where the keys of each of ATTEND_ITEM [items] lie: blocks are dealt to domains; several of them, in all."""
    alone = items["key_end"] - items["key_begin"] <= SPLIT
    return np.where(alone, IN_DOMAIN - items["key_begin"] // SPLIT % domains, _READER)


def _leaves(items: np.ndarray) -> np.ndarray:
    """Leaves that each of ATTEND_ITEM [items] merges or stores."""
    begin, end = items["key_begin"].astype(np.int64), items["key_end"].astype(np.int64)
    short = np.minimum(end, SPAN) - np.minimum(begin, SPAN)
    return short // LEAF + (end - begin - short) // SPLIT


def _seen(items: np.ndarray, window: int) -> np.ndarray:
    """Keys of each of ATTEND_ITEM [items] that its rows see between them."""
    position = items["position"].astype(np.int64)
    begin = np.maximum(0, position - window + 1) if window else np.zeros(len(items), np.int64)
    first = np.maximum(items["key_begin"], begin)
    last = np.minimum(items["key_end"], position + items["rows"])
    return np.maximum(0, last - first)
