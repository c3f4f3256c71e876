"""From a graph to a Program: rewrite, lower, plan, number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ellm.dsl import cost, show, tasks
from ellm.dsl.arena import Buffer, Plan, plan
from ellm.dsl.errors import GraphError
from ellm.dsl.graph import Graph
from ellm.dsl.lower import lower
from ellm.dsl.lowering import Lowering
from ellm.dsl.operator import Operator
from ellm.dsl.packing import PAGE
from ellm.dsl.policy import Policy, as_stored
from ellm.dsl.rewrite import rewrite
from ellm.dsl.tiling import ROWS
from ellm.kernels import contract
from ellm.kernels.records import Sync
from ellm.kernels.routes import Routes, in_bf16
from ellm.scheduler.contents import ArenaPlan, PlannedBuffer
from ellm.scheduler.program import EVENT, GROUP, WAKE, Lists, Program

KV = ("bf16", "int8")
"""What keys and values can be kept in: int8 with a scale for each position and head."""

_PARTIAL_LIMIT = 1 << 30
_PARTIAL_ROWS = 8  # that may be cut into leaves, or eight times as many into spans
_WITHOUT_COUNTS = np.dtype([(name, "i4") for name in GROUP.names or () if name != "counts"])


def compile(
    graph: Graph,
    *,
    context: int,
    chunk: int = 512,
    row_block: int = 64,
    fuse: bool = True,
    packing: Policy = as_stored,
    packings: Mapping[str, str] | None = None,
    routes: Routes = in_bf16,
    kv: str = "bf16",
    workers: int = 1,
) -> Program:
    """Compile a traced model.

    A sequence has at most `context` positions, rounded up to whole splits of the context, and a step at most `chunk`
    rows, rounded up to whole row blocks of `row_block` rows. Without `fuse`, one kernel runs per operator of the graph.
    `packing` decides in which format each matrix is packed, `packings` which one holds the numbers of another in fewer
    bits (`ellm.kernels.formats.packings`), `routes` what activations that meet it become, `kv` in what keys and values
    are kept, one of KV. Operators are cut into tasks enough for `workers`, which changes no bit of a result. Raises
    GraphError (an InputError) for bad sizes, a malformed graph, or an operator that no kernel can run, also not with
    such keys and values.
    """
    options: dict[str, Any] = {"fuse": fuse, "packing": packing, "packings": packings, "routes": routes, "kv": kv}
    options["workers"] = workers
    return compile_all([graph], context=context, chunk=chunk, row_block=row_block, **options)[0]


def compile_all(
    graphs: Sequence[Graph],
    *,
    context: int,
    chunk: int = 512,
    row_block: int = 64,
    fuse: bool = True,
    packing: Policy = as_stored,
    packings: Mapping[str, str] | None = None,
    routes: Routes = in_bf16,
    kv: str = "bf16",
    workers: int = 1,
    drafter: Graph | None = None,
) -> list[Program]:
    """Compile graphs of one model into programs that share packed weights and KV ranges; else as `compile`.

    What a later program keeps in a range, and the first does not, is behind the `range_bytes` of the first. The last
    program is that of `drafter`, if there is one, a graph that drafts for the first: what it keeps lies in the blocks
    of a range beside what the others do.
    """
    if kv not in KV:
        raise GraphError(f"kv {kv!r} is unknown: keys and values are kept in {' or '.join(KV)}")
    sizes = _round_up(context, contract.SPLIT), row_block, -(-chunk // row_block)

    def lowered(graph: Graph, first: Lowering | None, drafts: bool = False) -> Lowering:
        _check_sizes(graph, context, chunk, row_block)
        rewritten = rewrite(graph, fuse, packing, workers)
        return lower(rewritten, *sizes, first, packings, routes, kv == "int8", workers, drafts)

    first = lowered(graphs[0], None)
    drafts = [lowered(drafter, first, drafts=True)] if drafter else []
    lowerings = [first, *(lowered(graph, first) for graph in graphs[1:]), *drafts]
    weights_bytes = first.region.place()
    return [_program(lowering, weights_bytes, context) for lowering in lowerings]


def _check_sizes(graph: Graph, context: int, chunk: int, row_block: int) -> None:
    if not 0 < context <= graph.context:
        raise GraphError(f"context: {context} must be from 1 to the model's {graph.context} positions")
    if chunk < 1:
        raise GraphError(f"chunk: {chunk} must be at least 1 row")
    if row_block < ROWS or row_block % ROWS:
        raise GraphError(f"row_block: {row_block} must be a multiple of {ROWS}")


def _plan(lowering: Lowering) -> tuple[Plan, Plan]:
    """Plan the arena: a row block's section, and behind all of them what they share.

    What an operator reads in other blocks' sections is held until the step's end.
    """
    operators = lowering.operators
    end = len(operators)
    for number, operator in enumerate(operators):
        if operator.record.sync is Sync.ALL:
            for buffer in lowering.buffers:
                buffer.readers += [end] if number in buffer.readers else []
    after = [operator.after for operator in operators] + [list(range(end))]
    section = plan(lowering.buffers, after)
    fences = [number for number, operator in enumerate(operators) if operator.record.fences]
    shared = plan(lowering.shared, after, fences)
    for buffer in lowering.shared:
        buffer.offset += lowering.blocks * _round_up(section.bytes, PAGE)
    return section, shared


def _program(lowering: Lowering, weights_bytes: int, context: int) -> Program:
    graph, operators, row_block = lowering.graph, lowering.operators, lowering.row_block
    section, shared = _plan(lowering)
    task_graph = tasks.build(operators, lowering.blocks)
    numbers = [operator.numbers() for operator in operators]
    kernels = sorted({operator.kernel for operator in operators})
    attends = [args for operator, args in zip(operators, numbers, strict=True) if operator.record.attends]
    partial_floats = int(max((args["heads"] * (args["value_dim"] + 2) for args in attends), default=0))
    scratch = [op.record.scratch_bytes(args, row_block) for op, args in zip(operators, numbers, strict=True)]
    return Program(
        kernels=kernels,
        op_kernel=np.array([kernels.index(operator.kernel) for operator in operators], np.int32),
        op_names=[operator.name for operator in operators],
        args=np.stack([contract.pack(op.kernel, **args) for op, args in zip(operators, numbers, strict=True)]),
        relocations=_relocations(operators),
        groups=_groups(lowering, task_graph),
        events=np.array(task_graph.events, EVENT),
        signals=Lists.of(task_graph.signals),
        publishes=Lists.of(task_graph.publishes),
        triggers=Lists.of(task_graph.triggers),
        roots=np.array(task_graph.roots, np.int32),
        end=task_graph.end,
        row_block=row_block,
        blocks=task_graph.blocks,
        windows=lowering.windows,
        kv_heads=max((operator.tiles for operator in operators if operator.record.attends), default=0),
        fold_heads=int(max((args["heads"] // args["kv_heads"] for args in attends), default=1)),
        section_bytes=_round_up(section.bytes, PAGE),
        shared_bytes=_round_up(shared.bytes, PAGE),
        wakes=_wakes(lowering, task_graph),
        scratch_bytes=_round_up(max(scratch), 64),
        partial_floats=partial_floats,
        partials=_partials(context, partial_floats),
        weights_bytes=weights_bytes,
        range_bytes=_round_up(lowering.ranges.bytes, PAGE),
        first_block=lowering.ranges.first_block,
        block_bytes=lowering.ranges.block_bytes,
        context=lowering.ranges.context,
        vocab=graph.node(graph.output).weights["weight"].shape[0],
        graph=show.text(graph, lines=True),
        operators=tuple(cost.describe(operator) for operator in operators),
        weights=lowering.region.entries(),
        caches=lowering.ranges.entries(),
        plan=_arena_plan(lowering, section, shared),
        hidden=lowering.hidden.placed() if lowering.hidden else None,
        input_width=lowering.input_width,
    )


def _groups(lowering: Lowering, task_graph: tasks.TaskGraph) -> np.ndarray:
    groups = np.empty(len(task_graph.groups), GROUP)
    groups[[name for name in GROUP.names or () if name != "counts"]] = np.array(task_graph.groups, _WITHOUT_COUNTS)
    counts = [-1 if operator.counts is None else operator.counts.offset for operator in lowering.operators]
    groups["counts"] = np.array(counts)[groups["op"]]
    return groups


def _wakes(lowering: Lowering, task_graph: tasks.TaskGraph) -> np.ndarray:
    wakes = np.zeros(len(task_graph.wakes), WAKE)
    for wake, (before, first, join) in zip(wakes, task_graph.wakes, strict=True):
        experts = lowering.operators[task_graph.groups[first][0]].listed
        assert experts is not None
        wake["group"], wake["list"] = task_graph.group(before, 0), experts.offset
        wake["first"], wake["join"] = first, join
    return wakes


def _relocations(operators: list[Operator]) -> np.ndarray:
    """(operator, byte) of every weight address that is present."""
    found = [
        (number, byte)
        for number, operator in enumerate(operators)
        for name, byte in contract.weight_fields(operator.kernel).items()
        if operator.args.get(name) is not None
    ]
    return np.array(found, np.int32).reshape(-1, 2)


def _partials(context: int, partial_floats: int) -> int:
    """Room for so many rows of full context, address space until it is used."""
    if not partial_floats:
        return 0
    short = contract.SPAN // contract.LEAF
    wanted = max(8 * short, short + (context - contract.SPAN) // contract.SPLIT)
    return min(_PARTIAL_ROWS * wanted, _PARTIAL_LIMIT // (4 * partial_floats))


def _arena_plan(lowering: Lowering, section: Plan, shared: Plan) -> ArenaPlan:
    def planned(buffers: list[Buffer]) -> tuple[PlannedBuffer, ...]:
        return tuple(buffer.planned() for buffer in sorted(buffers, key=lambda buffer: (buffer.offset, buffer.name)))

    return ArenaPlan(
        section_bytes=section.bytes,
        lower_bound=section.lower_bound,
        buffers=planned(lowering.buffers),
        shared_bytes=shared.bytes,
        shared_lower_bound=shared.lower_bound,
        shared_buffers=planned(lowering.shared),
    )


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
