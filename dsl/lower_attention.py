"""Lowers attention: projections to heads, rope, the KV cache, attend."""

from __future__ import annotations

from collections.abc import Callable

from ellm.dsl import packing
from ellm.dsl.errors import LoweringError
from ellm.dsl.grammar import cache_shapes
from ellm.dsl.lowering import Lowering
from ellm.dsl.node import Node
from ellm.dsl.operator import Argument
from ellm.dsl.tensor import features
from ellm.dsl.tiling import depth_tiles, padded, row_groups, task_heads, tiles
from ellm.kernels import contract
from ellm.scheduler.program import Kind


def _qkv(low: Lowering, key: int, node: Node) -> None:
    heads, head_dim = features(node.shape)
    kv_heads = node.weights["k"].shape[0]
    count, head_tiles = heads + 2 * kv_heads, tiles(head_dim)
    task = task_heads(count, head_tiles, depth_tiles(low.depth(node)), low.workers)
    runs = packing.heads((heads, kv_heads, kv_heads), head_dim)
    args = low.operand(node) | low.matrix(node, ["q", "k", "v"], runs, count * head_tiles, task * head_tiles)
    args |= {"task_heads": task, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "head_tiles": head_tiles}
    args |= {role: low.vector(node.weights.get(role)) for role in ("q_norm", "k_norm")}
    args |= {"head_eps": node.attributes.get("head_eps"), "q_width": padded(head_dim)}
    if len(node.inputs) == 2:
        angles = low.stored[node.inputs[1]]
        args |= {"angles": angles.buffer, "rotary": angles.stride}
    args |= {"q": low.store(key, "q", heads * padded(head_dim)).buffer}
    low.emit("qkv", "qkv", key, args | low.ranges.add(node, kv_heads, head_dim, head_dim, False))


def _rope(low: Lowering, key: int, node: Node) -> None:
    x, angles = (low.stored[source] for source in node.inputs)
    heads, head_dim = features(node.shape)
    args = x.read(node.shape) | low.place(key, "rope").written(node.shape)
    args |= {"angles": angles.buffer, "heads": heads, "head_dim": head_dim, "rotary": angles.stride}
    args |= {"interleaved": int(node.attributes.get("interleaved", False)), "task_heads": row_groups(heads, head_dim)}
    low.emit("rope", "rope", key, args)


def _append(low: Lowering, key: int, node: Node) -> None:
    keys, values = (features(shape) for shape in cache_shapes(node))
    args: dict[str, Argument] = {"k": low.dense(node.inputs[0]).buffer}
    if len(node.inputs) == 2:
        args["v"] = low.dense(node.inputs[1]).buffer
    args |= {"kv_heads": keys[0], "head_dim": keys[1], "value_dim": values[1], "values_in_keys": int("v" not in args)}
    args |= low.ranges.add(node, keys[0], keys[1], values[1], "v" not in args)
    low.emit("append", "append", key, args, Kind.ROWS)


def _expand_latent(low: Lowering, key: int, node: Node) -> None:
    writer = low.graph.node(node.inputs[0])
    (_, cached_dim), (_, latent) = (features(shape) for shape in cache_shapes(writer))
    (heads, head_dim), (_, value_dim) = (features(shape) for shape in cache_shapes(node))
    to_keys, to_values = (low.heads(node.weights[role]) for role in ("k", "v"))
    args: dict[str, Argument] = {"cached": low.ranges.fields[writer.attributes["cache"]]["keys"], "latent": latent}
    args |= {"rotary": cached_dim - latent, "heads": heads, "key_dim": head_dim - cached_dim + latent}
    args |= {"to_keys": to_keys, "to_keys_stride": to_keys.stride, "to_keys_format": to_keys.format.number}
    args |= {"to_values": to_values, "to_values_stride": to_values.stride}
    args |= {"to_values_format": to_values.format.number, "value_dim": value_dim}
    args |= low.ranges.add(node, heads, head_dim, value_dim, False, kept=False)
    del args["int8"]  # latents, which it expands, are never so
    # All layers expand to the same memory: one at a time.
    low.emit("expand_latent", "expand_latent", key, args, Kind.SPLITS, behind=low.last_merge)


def _attend(low: Lowering, key: int, node: Node) -> None:
    query, cache = node.inputs
    q, writer = low.dense(query), low.graph.node(cache)
    heads, head_dim = features(low.graph.node(query).shape)
    kv_heads, value_dim = features(cache_shapes(writer)[1])
    window_class = _window_class(low, node)
    out = low.store(key, "attend")
    shared: dict[str, Argument] = {"heads": heads, "value_dim": value_dim}
    shared |= {"window_class": window_class, "out": out.buffer, "out_stride": out.stride}
    shared |= {"out_bf16": int(out.bf16)}
    shared |= {"sinks": low.vector(node.weights.get("sinks"))}
    low.ranges.parts[node.attributes["cache"]].windows.add(node.attributes["window"])
    args = shared | low.ranges.fields[node.attributes["cache"]] | {"kv_heads": kv_heads, "head_dim": head_dim}
    args |= {"values_in_keys": int(writer.op == "append" and len(writer.inputs) == 1)}
    args |= {"scale": node.attributes["scale"], "window": node.attributes["window"], "q": q.buffer}
    head_stride = padded(head_dim) if low.graph.node(query).op == "qkv" else head_dim
    args |= {"turns": args["int8"] and int(not q.bf16)}
    args |= {"q_bf16": int(q.bf16), "q_stride": q.stride, "q_head_stride": head_stride}
    # All attends of a row block use the same partials: one at a time.
    low.emit("attend", "attend", key, args, Kind.ITEMS + 2 * window_class, (query,), cache, behind=low.last_merge)
    low.emit("merge", "merge", key, shared, Kind.MERGES + 2 * window_class, (key,))
    (low.last_merge,) = low.producers[key]


def _window_class(low: Lowering, node: Node) -> int:
    window = node.attributes["window"]
    if window not in low.windows:
        low.windows.append(window)
    if len(low.windows) > contract.WINDOWS:
        raise LoweringError(f"{node.line}: attend: windows {low.windows}: more than {contract.WINDOWS} distinct ones")
    return low.windows.index(window)


LOWER: dict[str, Callable[[Lowering, int, Node], None]] = {
    "qkv": _qkv,
    "rope": _rope,
    "append": _append,
    "expand_latent": _expand_latent,
    "attend": _attend,
}
