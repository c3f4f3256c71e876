"""Lowers a mixture of experts: route, dispatch, scatter, one guarded chain of groups for each expert, and their sum.

Routed rows and what says where they are lie in buffers that all row blocks share.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ellm.dsl import packing
from ellm.dsl.arena import Buffer
from ellm.dsl.errors import LoweringError
from ellm.dsl.lowering import Lowering
from ellm.dsl.node import Node
from ellm.dsl.operator import Argument
from ellm.dsl.packing import Packed, Run
from ellm.dsl.tensor import features, text
from ellm.dsl.tiling import ROW_COLUMNS, ROWS, depth_tiles, task_tiles, tiles
from ellm.kernels.records import panel_row_bytes
from ellm.scheduler.program import Kind

_SCORES = {"none": 0, "softmax": 1, "sigmoid": 2}
_NORMALIZE = {"none": 0, "sum": 1, "softmax": 2}
_GATED, _CLAMPED = 0, 1  # activations of task.h


def route(low: Lowering, key: int, node: Node) -> None:
    """Choose experts, and what they weigh, by step row."""
    scores, attributes = low.dense(node.inputs[0]), node.attributes
    (experts,), (top_k,) = features(low.graph.node(node.inputs[0]).shape), features(node.shape)
    args: dict[str, Argument] = {"scores": scores.buffer, "bias": low.vector(node.weights.get("bias"))}
    args |= {"experts": experts, "top_k": top_k, "scale": attributes["scale"]}
    args |= {"score": _SCORES[attributes.get("score", "none")], "normalize": _NORMALIZE[attributes["normalize"]]}
    args |= {name: attributes.get(name) for name in ("groups", "keep_groups", "group_top")}
    args |= {"masked_value": attributes.get("masked")}
    low.emit("route", "route", key, args)
    low.share(key, {}, ids=4 * _rows(low) * top_k, weights=4 * _rows(low) * top_k)


def _dispatch(low: Lowering, key: int, node: Node) -> None:
    routes = node.inputs[0]
    chosen = low.graph.node(routes)
    (experts,), (top_k,) = features(low.graph.node(chosen.inputs[0]).shape), features(chosen.shape)
    routed, ids = _rows(low) * top_k, {"ids": low.routed[routes]["ids"]}
    low.emit("dispatch", "dispatch", key, {"experts": experts, "top_k": top_k}, Kind.ROWS, (routes,))
    sizes = {"begin": experts + 1, "position": routed, "rows_of": experts, "list": 1 + experts}
    low.share(key, ids, **{name: 4 * size for name, size in sizes.items()})


def _scatter(low: Lowering, key: int, weight: Packed) -> Buffer:
    """Round the rows that a dispatch, node `key`, sends to experts as this weight takes them; return where they lie."""
    node, dispatched = low.graph.node(key), low.routed[key]
    routes, source = node.inputs
    (top_k,) = features(low.graph.node(routes).shape)
    x, k = low.dense(source), math.prod(features(node.shape))
    args: dict[str, Argument] = {"x": x.buffer, "x_bf16": int(x.bf16), "x_stride": x.stride, "top_k": top_k}
    args |= {"k": k, "k_tiles": depth_tiles(k)} | low.route(weight)
    low.emit("scatter", "scatter", key, args, Kind.PIECES, (source,))
    read = {name: dispatched[name] for name in ("ids", "begin", "position")}
    size = _panel_bytes(low, dispatched, k, low.routes(weight.format))
    made = low.share(key, read, out=size)["out"]
    low.routed[key] = dispatched
    return made


def _gate_up(low: Lowering, key: int, node: Node) -> None:
    (source,) = node.inputs
    (n,), dispatched = features(node.shape), _dispatched(low, node, source)
    n_tiles, k = 2 * tiles(n), low.depth(node)
    args: dict[str, Argument] = {"x": None, "k": k, "k_tiles": depth_tiles(k)}
    args |= _bank(low, node, ["gate", "up"], packing.interleaved(n), n_tiles, task_tiles(n_tiles, depth_tiles(k)))
    args["x_bf16"] = int(not args["activations"])
    routed = _scatter(low, source, _weight(args))
    bf16 = not any(low.reads_f32(reader, key) for reader in low.graph.consumers(key))
    clamped = "limit" in node.attributes
    args |= {"n": n, "activation": _CLAMPED if clamped else _GATED, "out_bf16": int(bf16)}
    args |= {name: node.attributes.get(name) for name in ("limit", "alpha")}
    low.emit("experts.gate_up", "expert_gate_up", key, args, reads=(source,), experts=_experts(node))
    size = _panel_bytes(low, dispatched, n, 0) if bf16 else 4 * _routed(dispatched) * n
    low.share(key, {"begin": dispatched["begin"], "routed": routed}, out=size)
    _guard(low, dispatched)


def _down(low: Lowering, key: int, node: Node) -> None:
    source = node.inputs[0]
    producer = low.graph.node(source)
    if producer.op != "gate_up":
        raise LoweringError(
            f"{node.line}: linear: of routed rows only that of swiglu is computed, not of {producer.op}"
        )
    dispatched = _dispatched(low, node, producer.inputs[0])
    (n,), k = features(node.shape), low.depth(node)
    n_tiles, k_tiles = tiles(n), depth_tiles(k)
    args: dict[str, Argument] = {"x": None, "x_stride": k, "k": k, "k_tiles": k_tiles, "n": n}
    args |= _bank(low, node, ["weight"], packing.whole(n), n_tiles, task_tiles(n_tiles, k_tiles))
    args["x_bf16"] = int(not args["activations"])
    low.emit("experts.down", "expert_down", key, args, experts=_experts(node))
    reads = {"begin": dispatched["begin"], "routed": low.routed[source]["out"]}
    low.share(key, reads, out=4 * _routed(dispatched) * n)
    low.routed[source]["routed"].readers.append(len(low.operators) - 1)  # by gate_up of other experts meanwhile
    _guard(low, dispatched)


def combine(low: Lowering, key: int, node: Node) -> None:
    """Sum the experts of each row, and add the residual."""
    routes, y, *residual = node.inputs
    down = low.graph.node(y)
    if down.op != "linear":
        raise LoweringError(f"{node.line}: experts: the body must end in linear, not in {down.op}")
    dispatched = low.graph.node(down.inputs[0]).inputs[0]
    if low.graph.node(dispatched).inputs[0] != routes:
        raise LoweringError(f"{node.line}: experts: rows were routed otherwise than their results are weighed")
    (n,), (top_k,) = features(node.shape), features(low.graph.node(routes).shape)
    args: dict[str, Argument] = {"top_k": top_k, "n": n, "task_columns": min(n, ROW_COLUMNS)}
    if residual:
        args["residual"] = low.dense(residual[0]).buffer
        args["out"] = low.store_sum(key, "experts").buffer
    else:
        args["out"] = low.store(key, "experts").buffer
    low.emit("experts.combine", "combine", key, args, reads=(y, *residual))
    places = {"weights": low.routed[routes]["weights"], "position": low.routed[dispatched]["position"]}
    low.share(key, {"y": low.routed[y]["out"], **places})


def _rows(low: Lowering) -> int:
    return low.row_block * low.blocks


def _routed(dispatched: dict[str, Buffer]) -> int:
    """Most routed rows of a step."""
    return dispatched["ids"].bytes // 4


def _experts(node: Node) -> int:
    return next(iter(node.weights.values())).experts


def _panel_bytes(low: Lowering, dispatched: dict[str, Buffer], k: int, activations: int) -> int:
    """Bytes of rows of a panel for all routed rows; whole tiles of rows are read, also at an expert's last row."""
    return (_routed(dispatched) + ROWS - 1) * panel_row_bytes(depth_tiles(k), activations)


def _weight(args: dict[str, Argument]) -> Packed:
    weight = args["weight"]
    assert isinstance(weight, Packed)
    return weight


def _guard(low: Lowering, dispatched: dict[str, Buffer]) -> None:
    """Let dispatch decide which groups of the last operator run, and their extents, which the scheduler reads."""
    low.operators[-1].counts, low.operators[-1].listed = dispatched["rows_of"], dispatched["list"]
    low.operators[-1].top_k = _routed(dispatched) // _rows(low)
    for name in ("list", "rows_of"):
        dispatched[name].readers.append(len(low.operators) - 1)


def _dispatched(low: Lowering, node: Node, source: int) -> dict[str, Buffer]:
    if low.graph.node(source).op != "dispatch":
        shape = text(low.graph.node(source).shape)
        raise LoweringError(f"{node.line}: {node.op}: experts multiply the rows routed to them, not {shape}")
    return low.routed[source]


def _bank(
    low: Lowering, node: Node, roles: list[str], runs: tuple[Run, ...], n_tiles: int, task: int
) -> dict[str, Argument]:
    args = low.matrix(node, roles, runs, n_tiles, task)
    for name, stride in (("weight", "bank_stride"), ("bias", "bias_stride")):
        bank = args[name]
        args[stride] = bank.stride if isinstance(bank, Packed) else 0
    return args


LOWER: dict[str, Callable[[Lowering, int, Node], None]] = {
    "dispatch": _dispatch,
    "gate_up": _gate_up,
    "linear": _down,
}
