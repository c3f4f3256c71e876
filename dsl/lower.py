"""Lowers a graph to operators: for each node its kernel and arguments.

A value is stored in bf16 if it is only ever the A operand of a matrix product or the query of an attend, else in f32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ellm.dsl import packing
from ellm.dsl.errors import LoweringError
from ellm.dsl.grammar import Node, cache_shape
from ellm.dsl.graph import Graph
from ellm.dsl.lowering import Lowering
from ellm.dsl.operator import Argument
from ellm.dsl.tensor import Weight, features
from ellm.dsl.tiling import depth_tiles, padded, task_heads, task_tiles, tiles
from ellm.kernels import contract
from ellm.scheduler.program import Kind


def lower(graph: Graph, context: int, row_block: int) -> Lowering:
    """Lower every node, and the sampling of logits. Raises LoweringError, naming the model line, if no kernel fits."""
    low = Lowering(graph, context, row_block)
    for key, node in graph.items():
        if node.op != "tokens":
            _LOWER[node.op](low, key, node)
    output = graph.output
    vocab = graph.node(output).weights["weight"].shape[0]
    low.emit("sample", "sample", output, {"vocab": vocab}, Kind.SAMPLE, reads=(output,))
    return low


def _module(weight: Weight) -> str:
    """Name of the module that holds a weight: "o_proj"."""
    return weight.name.split(".")[-2]


def _embed(low: Lowering, key: int, node: Node) -> None:
    weight = node.weights["weight"]
    vocab, width = weight.shape
    n_tiles, k_tiles = tiles(vocab), depth_tiles(width)
    # Packed exactly as the head is, so that tied embeddings are stored once.
    table = low.region.tiles([weight], packing.whole(vocab), width, n_tiles, task_tiles(n_tiles, k_tiles))
    args: dict[str, Argument] = {"table": table, "out": low.store(key, "embed").buffer, "width": width}
    low.emit("embed", "embed", key, args | {"k_tiles": k_tiles, "vocab": vocab, "scale": 1.0})


def _angles(low: Lowering, key: int, node: Node) -> None:
    spec = node.attributes["rope"]
    args: dict[str, Argument] = {"inv_freq": low.region.constant("inv_freq", spec.inv_freq)}
    args |= {"out": low.store(key, "angles").buffer, "half": len(spec.inv_freq), "factor": spec.factor}
    low.emit("angles", "angles", key, args)


def _rms_norm(low: Lowering, key: int, node: Node) -> None:
    weight = node.weights["weight"]
    x, out = low.stored[node.inputs[0]], low.store(key, _module(weight))
    args: dict[str, Argument] = {"x": x.buffer, "weight": low.vector(weight), "out": out.buffer}
    args |= {"out_bf16": int(out.bf16), "out_stride": out.stride, "eps": node.attributes["eps"]}
    args |= {"groups": math.prod(features(node.shape)[:-1]), "width": weight.size}
    low.emit(_module(weight), "rms_norm", key, args)


def _linear(low: Lowering, key: int, node: Node) -> None:
    name = _module(node.weights["weight"])
    n = math.prod(features(node.shape))
    n_tiles = tiles(n)
    args = low.operand(node)
    args |= low.matrix(node, ["weight"], packing.whole(n), n_tiles, task_tiles(n_tiles, depth_tiles(low.depth(node))))
    if len(node.inputs) == 2:
        args["residual"] = low.stored[node.inputs[1]].buffer
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
    low.emit("gate_up", "gate_up", key, args | {"n": n, "out": out.buffer, "out_stride": out.stride})


def _qkv(low: Lowering, key: int, node: Node) -> None:
    heads, head_dim = features(node.shape)
    kv_heads = node.weights["k"].shape[0]
    count, head_tiles = heads + 2 * kv_heads, tiles(head_dim)
    task = task_heads(count, head_tiles, depth_tiles(low.depth(node)))
    runs = packing.heads((heads, kv_heads, kv_heads), head_dim)
    args = low.operand(node) | low.matrix(node, ["q", "k", "v"], runs, count * head_tiles, task * head_tiles)
    args |= {"task_heads": task, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "head_tiles": head_tiles}
    args |= {role: low.vector(node.weights.get(role)) for role in ("q_norm", "k_norm")}
    args |= {"head_eps": node.attributes.get("head_eps"), "q_width": padded(head_dim)}
    if len(node.inputs) == 2:
        angles = low.stored[node.inputs[1]]
        args |= {"angles": angles.buffer, "rotary": angles.stride}
    args |= {"q": low.store(key, "q").buffer}
    low.emit("qkv", "qkv", key, args | low.ranges.add(node.attributes["cache"], kv_heads, head_dim))


def _rope(low: Lowering, key: int, node: Node) -> None:
    x, angles = (low.stored[source] for source in node.inputs)
    heads, head_dim = features(node.shape)
    args: dict[str, Argument] = {"x": x.buffer, "angles": angles.buffer, "out": low.store(key, "rope").buffer}
    low.emit("rope", "rope", key, args | {"heads": heads, "head_dim": head_dim, "rotary": angles.stride})


def _append(low: Lowering, key: int, node: Node) -> None:
    k, v = (low.stored[source].buffer for source in node.inputs)
    kv_heads, head_dim = features(node.shape)
    args: dict[str, Argument] = {"k": k, "v": v, "kv_heads": kv_heads, "head_dim": head_dim}
    args["value_dim"] = head_dim
    low.emit("append", "append", key, args | low.ranges.add(node.attributes["cache"], kv_heads, head_dim), Kind.ROWS)


def _attend(low: Lowering, key: int, node: Node) -> None:
    query, cache = node.inputs
    q = low.stored[query]
    heads, head_dim = features(node.shape)
    (kv_heads, _) = features(cache_shape(low.graph.node(cache)))
    window_class = _window_class(low, node)
    out = low.store(key, "attend")
    shared: dict[str, Argument] = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "value_dim": head_dim}
    shared |= {"window_class": window_class, "out": out.buffer, "out_stride": out.stride}
    args = shared | low.ranges.caches[node.attributes["cache"]]
    args |= {"scale": node.attributes["scale"], "window": node.attributes["window"], "q": q.buffer}
    head_stride = padded(head_dim) if low.graph.node(query).op == "qkv" else head_dim
    args |= {"q_bf16": int(q.bf16), "q_stride": q.stride, "q_head_stride": head_stride}
    low.emit("attend", "attend", key, args, Kind.ITEMS + 2 * window_class, (query,), cache)
    low.emit("merge", "merge", key, shared, Kind.MERGES + 2 * window_class, (key,))


def _window_class(low: Lowering, node: Node) -> int:
    window = node.attributes["window"]
    if window not in low.windows:
        low.windows.append(window)
    if len(low.windows) > contract.WINDOWS:
        raise LoweringError(f"{node.line}: attend: windows {low.windows}: more than {contract.WINDOWS} distinct ones")
    return low.windows.index(window)


def _swiglu(low: Lowering, key: int, node: Node) -> None:
    gate, up = (low.stored[source].buffer for source in node.inputs)
    args: dict[str, Argument] = {"gate": gate, "up": up, "out": low.store(key, "swiglu").buffer}
    low.emit("swiglu", "swiglu", key, args | {"width": math.prod(features(node.shape))})


def _add(low: Lowering, key: int, node: Node) -> None:
    a, b = (low.stored[source].buffer for source in node.inputs)
    args: dict[str, Argument] = {"a": a, "b": b, "out": low.store(key, "add").buffer}
    low.emit("add", "add", key, args | {"width": math.prod(features(node.shape))})


def _gather(low: Lowering, key: int, node: Node) -> None:
    x = low.stored[node.inputs[0]].buffer
    args: dict[str, Argument] = {"x": x, "out": low.store(key, "gather").buffer}
    low.emit("gather", "gather", key, args | {"width": math.prod(features(node.shape))})


def _logits(low: Lowering, key: int, node: Node) -> None:
    (n,) = features(node.shape)
    n_tiles = tiles(n)
    args = low.operand(node)
    args |= low.matrix(node, ["weight"], packing.whole(n), n_tiles, task_tiles(n_tiles, depth_tiles(low.depth(node))))
    low.emit("logits", "logits", key, args | {"n": n})


_LOWER: dict[str, Callable[[Lowering, int, Node], None]] = {
    "embed": _embed,
    "angles": _angles,
    "rms_norm": _rms_norm,
    "linear": _linear,
    "rope": _rope,
    "append": _append,
    "attend": _attend,
    "swiglu": _swiglu,
    "add": _add,
    "gather": _gather,
    "logits": _logits,
    "gate_up": _gate_up,
    "qkv": _qkv,
}
