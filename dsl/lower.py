"""Lowers a graph to operators: for each node its kernel and arguments.

A value is stored in bf16 if it is only ever the A operand of matrix products that round it to that, or the query of an
attend, else in f32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ellm.dsl import lower_attention, lower_experts, packing
from ellm.dsl.errors import LoweringError
from ellm.dsl.graph import Graph
from ellm.dsl.lowering import Hidden, Lowering
from ellm.dsl.node import Node
from ellm.dsl.operator import Argument, Stored
from ellm.dsl.tensor import R, Weight, features, text
from ellm.dsl.tiling import ROWS, depth_tiles, finer, task_tiles, tiles
from ellm.kernels.routes import Routes, in_bf16
from ellm.scheduler.program import Kind


def lower(
    graph: Graph,
    context: int,
    row_block: int,
    blocks: int,
    first: Lowering | None = None,
    packings: Mapping[str, str] | None = None,
    routes: Routes = in_bf16,
    int8: bool = False,
    workers: int = 1,
    drafts: bool = False,
) -> Lowering:
    """Lower every node, and the sampling of logits; `first` and what follows it: see Lowering.

    Raises LoweringError, naming the model line, if no kernel fits.
    """
    low = Lowering(graph, context, row_block, blocks, first, packings, routes, int8, workers, drafts)
    for key, node in graph.items():
        if node.op == "tokens":
            continue
        table = lower_experts.LOWER if node.shape[0] == R else _LOWER
        if node.op not in table:
            raise LoweringError(f"{node.line}: {node.op}: no kernel computes this of {text(node.shape)} here")
        table[node.op](low, key, node)
    output = graph.output
    vocab = graph.node(output).weights["weight"].shape[0]
    low.emit("sample", "sample", output, {"vocab": vocab}, Kind.SAMPLE, reads=(output,))
    low.ranges.place()
    return low


def _module(weight: Weight) -> str:
    """Name of the module that holds a weight: "o_proj"."""
    return weight.name.split(".")[-2]


def _embed(low: Lowering, key: int, node: Node) -> None:
    weight = node.weights["weight"]
    vocab, width = weight.shape
    n_tiles, k_tiles = tiles(vocab), depth_tiles(width)
    # Packed exactly as the head is, so that tied embeddings are stored once.
    task = finer(task_tiles(n_tiles, k_tiles), n_tiles, low.workers)
    table = low.region.tiles([weight], packing.whole(vocab), width, n_tiles, task)
    args: dict[str, Argument] = {"table": table, "out": low.store(key, "embed").buffer, "width": width}
    args |= {"format": table.format.number}
    low.emit("embed", "embed", key, args | {"k_tiles": k_tiles, "vocab": vocab, "scale": 1.0})


def _input_rows(low: Lowering, key: int, node: Node) -> None:
    (low.input_width,) = features(node.shape)
    args: dict[str, Argument] = {"out": low.store(key, "input_rows").buffer, "width": low.input_width}
    low.emit("input_rows", "input_rows", key, args)


def _angles(low: Lowering, key: int, node: Node) -> None:
    spec = node.attributes["rope"]
    args: dict[str, Argument] = {"inv_freq": low.region.constant("inv_freq", spec.inv_freq)}
    args |= {"out": low.store(key, "angles").buffer, "half": len(spec.inv_freq), "factor": spec.factor}
    low.emit("angles", "angles", key, args)


def _rms_norm(low: Lowering, key: int, node: Node) -> None:
    weight = node.weights["weight"]
    args = low.stored[node.inputs[0]].read(node.shape) | low.place(key, _module(weight)).written(node.shape)
    args |= {"weight": low.vector(weight), "eps": node.attributes["eps"], "tasks": low.row_block // ROWS}
    args |= {"groups": math.prod(features(node.shape)[:-1]), "width": weight.size}
    low.emit(_module(weight), "rms_norm", key, args)


def _linear(low: Lowering, key: int, node: Node) -> None:
    name = _module(node.weights["weight"])
    n = math.prod(features(node.shape))
    n_tiles = tiles(n)
    args = low.operand(node)
    args |= low.matrix(node, ["weight"], packing.whole(n), n_tiles, task_tiles(n_tiles, depth_tiles(low.depth(node))))
    if len(node.inputs) == 2:
        args["residual"] = low.dense(node.inputs[1]).buffer
        out = low.store_sum(key, name)
    else:
        out = low.store(key, name)
    args |= {"n": n, "out": out.buffer, "out_bf16": int(out.bf16), "out_stride": out.stride}
    low.emit(name, "linear", key, args)


def _gate_up(low: Lowering, key: int, node: Node) -> None:
    (n,) = features(node.shape)
    n_tiles = 2 * tiles(n)
    task = task_tiles(n_tiles, depth_tiles(low.depth(node)))
    args = low.operand(node) | low.matrix(node, ["gate", "up"], packing.interleaved(n), n_tiles, task)
    out = low.store(key, "gate_up")
    args |= {"n": n, "out": out.buffer, "out_bf16": int(out.bf16), "out_stride": out.stride}
    low.emit("gate_up", "gate_up", key, args)


def _head_linear(low: Lowering, key: int, node: Node) -> None:
    weight = node.weights["weight"]
    heads, n, k = weight.shape
    n_tiles, k_tiles, name = tiles(n), depth_tiles(k), _module(weight)
    x, packed = low.stored[node.inputs[0]], low.heads(weight)
    args = x.read((*node.shape[:2], k)) | low.place(key, name).written(node.shape)
    args |= {"x_bf16": int(x.bf16), "k": k, "k_tiles": k_tiles, "heads": heads, "n": n, "n_tiles": n_tiles}
    args |= {"weight": packed, "bank_stride": packed.stride, **low.route(packed)}
    low.emit(name, "head_linear", key, args | {"task_tiles": packed.entry.task_tiles})


def _slice(low: Lowering, key: int, node: Node) -> None:
    (source,) = node.inputs
    x, width = low.stored[source], features(low.graph.node(source).shape)[-1]
    first = x.first + node.attributes["begin"]
    low.stored[key] = Stored(x.buffer, x.bf16, x.stride, first, x.group_stride or width)
    low.producers[key] = low.producers[source]


def _concat(low: Lowering, key: int, node: Node) -> None:
    """Copies the parts that are not there already."""
    made: set[int] = set()
    for number, source in enumerate(node.inputs):
        part = low.part(key, number)
        if low.stored[source] == part:
            made.update(low.producers[source])
        else:
            low.copy("concat", key, source, low.stored[source], part, low.graph.node(source).shape)
            made.update(low.producers.pop(key))  # the next one does not wait for it
    low.producers[key] = tuple(sorted(made))


def _swiglu(low: Lowering, key: int, node: Node) -> None:
    if "limit" in node.attributes:
        raise LoweringError(f"{node.line}: swiglu: clamped it is for experts only")
    gate, up = (low.dense(source).buffer for source in node.inputs)
    args: dict[str, Argument] = {"gate": gate, "up": up, "out": low.store(key, "swiglu").buffer}
    low.emit("swiglu", "swiglu", key, args | {"width": math.prod(features(node.shape))})


def _add(low: Lowering, key: int, node: Node) -> None:
    a, b = (low.dense(source).buffer for source in node.inputs)
    args: dict[str, Argument] = {"a": a, "b": b, "out": low.store(key, "add").buffer}
    low.emit("add", "add", key, args | {"width": math.prod(features(node.shape))})


def _gather(low: Lowering, key: int, node: Node) -> None:
    x = low.dense(node.inputs[0]).buffer
    args: dict[str, Argument] = {"x": x, "out": low.store(key, "gather").buffer}
    low.emit("gather", "gather", key, args | {"width": math.prod(features(node.shape))})


def _logits(low: Lowering, key: int, node: Node) -> None:
    (n,) = features(node.shape)
    n_tiles = tiles(n)
    args = low.operand(node)
    args |= low.matrix(node, ["weight"], packing.whole(n), n_tiles, task_tiles(n_tiles, depth_tiles(low.depth(node))))
    low.emit("logits", "logits", key, args | {"n": n})
    source = low.graph.node(node.inputs[0])
    if source.op == "gather":  # it alone reads the rows of other blocks, so they are held until the step's end
        rows, norm = low.stored[source.inputs[0]], low.vector(node.weights.get("norm"))
        low.hidden = Hidden(rows, low.depth(node), norm, node.attributes.get("eps", 0.0))


_LOWER: dict[str, Callable[[Lowering, int, Node], None]] = {
    "embed": _embed,
    "input_rows": _input_rows,
    "angles": _angles,
    "rms_norm": _rms_norm,
    "linear": _linear,
    "head_linear": _head_linear,
    "slice": _slice,
    "concat": _concat,
    "swiglu": _swiglu,
    "add": _add,
    "gather": _gather,
    "logits": _logits,
    "gate_up": _gate_up,
    **lower_attention.LOWER,
    "route": lower_experts.route,
    "combine": lower_experts.combine,
}
