"""Rewrites of the dataflow graph: each pass edits the graph in place and leaves it well formed.

Every pass keeps the arithmetic of each row, so a fused and an unfused program give the same logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import networkx

from ellm.dsl.errors import LoweringError
from ellm.dsl.grammar import GRAMMAR, Effect
from ellm.dsl.graph import Graph
from ellm.dsl.node import Node
from ellm.dsl.policy import Policy, as_stored, assign
from ellm.dsl.tensor import R, Weight
from ellm.dsl.verify import verify
from ellm.kernels.formats import FORMATS, PLAIN, expanded


def share_equal(graph: Graph) -> None:
    """Merge operators that compute the same from the same inputs, such as the angles of every rope."""
    seen: dict[tuple, int] = {}
    for key in graph.order():
        node = graph.node(key)
        identity = (node.op, node.inputs, tuple(node.weights.items()), tuple(node.attributes.items()))
        first = seen.setdefault(identity, key)
        if first != key and GRAMMAR[node.op].effect is Effect.NONE:
            graph.redirect(key, first)
            graph.remove_node(key)


def remove_dead(graph: Graph) -> None:
    """Remove what the logits do not depend on."""
    alive = networkx.ancestors(graph, graph.output) | {graph.output}
    graph.remove_nodes_from([key for key in graph.order() if key not in alive])


def fold_scores(graph: Graph) -> None:
    """Fold the softmax or sigmoid of scores into the route that reads them."""
    for key in [key for key, node in graph.items() if node.op == "route"]:
        node = graph.node(key)
        (scores,) = graph.inputs(key)
        if scores.op in ("softmax", "sigmoid"):
            source, attributes = node.inputs[0], node.attributes | {"score": scores.op}
            graph.put(key, replace(node, inputs=scores.inputs, attributes=attributes))
            if not graph.consumers(source):
                graph.remove_node(source)


def join_experts(graph: Graph) -> None:
    """Join the gate and up projections of experts, which no kernel does apart: without scales if their formats differ.

    Raises LoweringError.
    """
    for key in [key for key, node in graph.items() if node.op == "swiglu" and node.shape[0] == R]:
        parts = [(source, graph.node(source)) for source in graph.node(key).inputs]
        matrices = [part.weights["weight"] for _, part in parts if "weight" in part.weights]
        if len({matrix.packed for matrix in matrices}) > 1:
            whole = {expanded(FORMATS[matrix.packed]) for matrix in matrices}
            common = whole.pop() if len(whole) == 1 else PLAIN
            for source, part in parts:
                plain = replace(part.weights["weight"], packed=common.name)
                graph.put(source, replace(part, weights={**part.weights, "weight": plain}))
        if not _join_gate_up(graph, key):
            names = [str(weight) for _, part in parts for weight in part.weights.values()]
            what, line = " and ".join(names) or parts[0][1].op, graph.node(key).line
            raise LoweringError(f"{line}: swiglu: cannot join {what} of an expert: no kernel computes this")


def hoist_gather(graph: Graph) -> None:
    """Gather the rows that want logits before row-wise operators instead of after them."""
    for key in [key for key, node in graph.items() if node.op == "gather"]:
        while True:
            source = graph.node(key).inputs[0]
            node = graph.node(source)
            row_wise = node.op in ("rms_norm", "linear") and len(node.inputs) == 1
            flat = row_wise and len(graph.inputs(source)[0].shape) == 2
            if not flat or graph.consumers(source) != [key]:
                break
            graph.redirect(key, source)
            graph.put(key, graph.shaped(replace(graph.node(key), inputs=node.inputs)))
            graph.put(source, graph.shaped(replace(node, inputs=(key,))))


@dataclass(frozen=True)
class _Heads:
    """A projection to heads: linear, then perhaps a norm and rope, each read by the next alone."""

    linear: Node
    norm: Node | None
    angles: int | None
    keys: tuple[int, ...]


def _heads(graph: Graph, key: int) -> _Heads | None:
    keys: list[int] = []
    norm: Node | None = None
    angles: int | None = None
    node = graph.node(key)
    if node.op == "rope" and "interleaved" not in node.attributes:
        keys.append(key)
        key, angles = node.inputs
        node = graph.node(key)
    if node.op == "rms_norm":
        keys.append(key)
        key, norm = node.inputs[0], node
        node = graph.node(key)
    keys.append(key)
    single = all(len(graph.consumers(part)) == 1 for part in keys)
    plain = node.op == "linear" and len(node.inputs) == 1 and "norm" not in node.weights and len(node.shape) == 3
    return _Heads(node, norm, angles, tuple(keys)) if single and plain else None


def join_qkv(graph: Graph) -> None:
    """Join the q, k and v projections of an attend with their head norms, rope and cache append: one `qkv`."""
    for key in [key for key, node in graph.items() if node.op == "append"]:
        readers = graph.consumers(key)
        apart = len(graph.node(key).inputs) == 2
        if not apart or len(readers) != 1 or graph.node(readers[0]).op != "attend":
            continue
        append, attend = graph.node(key), graph.node(readers[0])
        q, k, v = (_heads(graph, part) for part in (attend.inputs[0], *append.inputs))
        if q and k and v and _joinable(q, k, v):
            node = _joined(append, q, k, v)
            graph.remove_nodes_from([part for heads in (q, k, v) for part in heads.keys])
            graph.put(key, graph.shaped(node))
            graph.put(readers[0], replace(attend, inputs=(key, key)))


def _joinable(q: _Heads, k: _Heads, v: _Heads) -> bool:
    epsilons = {heads.norm.attributes["eps"] for heads in (q, k) if heads.norm}
    return (
        q.linear.inputs == k.linear.inputs == v.linear.inputs
        and v.norm is None
        and v.angles is None
        and q.angles == k.angles
        and len(epsilons) <= 1
        and k.linear.shape == v.linear.shape
        and q.linear.shape[2] == k.linear.shape[2]
        and len({heads.linear.weights["weight"].packed for heads in (q, k, v)}) == 1
    )


def _joined(append: Node, q: _Heads, k: _Heads, v: _Heads) -> Node:
    weights: dict[str, Weight] = {}
    for role, heads in (("q", q), ("k", k), ("v", v)):
        weights[role] = heads.linear.weights["weight"]
        if "bias" in heads.linear.weights:
            weights[role + "_bias"] = heads.linear.weights["bias"]
        if heads.norm:
            weights[role + "_norm"] = heads.norm.weights["weight"]
    attributes = dict(append.attributes)
    norm = q.norm or k.norm
    if norm:
        attributes["head_eps"] = norm.attributes["eps"]
    inputs = q.linear.inputs if q.angles is None else (*q.linear.inputs, q.angles)
    return Node("qkv", inputs, weights, attributes, scope=q.linear.scope, line=q.linear.line)


def join_gate_up(graph: Graph) -> None:
    """Join the gate and up projections of a swiglu that feeds matrix products only: one `gate_up`."""
    for key in [key for key, node in graph.items() if node.op == "swiglu"]:
        if "limit" not in graph.node(key).attributes:
            _join_gate_up(graph, key)


def _join_gate_up(graph: Graph, key: int) -> bool:
    node = graph.node(key)
    gate, up = graph.inputs(key)
    plain = all(part.op == "linear" and len(part.inputs) == 1 and "norm" not in part.weights for part in (gate, up))
    if not plain or gate.inputs != up.inputs or node.inputs[0] == node.inputs[1] or not _feeds_matmuls(graph, key):
        return False
    if any(graph.consumers(part) != [key] for part in node.inputs):
        return False
    weights = {"gate": gate.weights["weight"], "up": up.weights["weight"]}
    if weights["gate"].packed != weights["up"].packed:
        return False
    for role, part in (("gate_bias", gate), ("up_bias", up)):
        if "bias" in part.weights:
            weights[role] = part.weights["bias"]
    graph.remove_nodes_from(node.inputs)
    joined = Node("gate_up", gate.inputs, weights, dict(node.attributes), scope=node.scope, line=gate.line)
    graph.put(key, graph.shaped(joined))
    return True


def _feeds_matmuls(graph: Graph, key: int) -> bool:
    """Whether a value is read as the A operand of matrix products, without a norm in front, and nothing else."""
    for consumer in graph.consumers(key):
        node = graph.node(consumer)
        form = GRAMMAR[node.op]
        if not (form.takes_norm and form.rounds(node, key)):
            return False
    return True


def fold_norm(graph: Graph) -> None:
    """Fold a norm over whole rows into the matrix products that read it."""
    _fold_norms(graph, [key for key, node in graph.items() if node.op == "rms_norm"])


def fold_last_norm(graph: Graph) -> None:
    """Fold the norm before the logits alone: of these rows there are few, and embeddings want them without."""
    logits = [node for _, node in graph.items() if node.op == "logits"]
    _fold_norms(graph, [node.inputs[0] for node in logits if graph.node(node.inputs[0]).op == "rms_norm"])


def _fold_norms(graph: Graph, keys: Iterable[int]) -> None:
    for key in keys:
        node = graph.node(key)
        if len(node.shape) != 2 or not _feeds_matmuls(graph, key):
            continue
        for consumer in graph.consumers(key):
            product = graph.node(consumer)
            weights = product.weights | {"norm": node.weights["weight"]}
            attributes = product.attributes | {"eps": node.attributes["eps"]}
            inputs = (node.inputs[0], *product.inputs[1:])
            graph.put(consumer, replace(product, inputs=inputs, weights=weights, attributes=attributes))
        graph.remove_node(key)


def start_sums(graph: Graph) -> None:
    """Start the sum of `x + experts(...)` with x. Always done: added at the end, x would make another rounding."""
    _fold_add(graph, "combine", 2)


def fold_residual(graph: Graph) -> None:
    """Fold `x + linear(...)` into the epilogue of the linear."""
    _fold_add(graph, "linear", 1)


def _fold_add(graph: Graph, op: str, own_inputs: int) -> None:
    """Make what an operator is added to, if nothing else reads it, its input after its own."""
    for key in [key for key, node in graph.items() if node.op == "add"]:
        node = graph.node(key)
        for product, residual in (node.inputs[::-1], node.inputs):
            producer = graph.node(product)
            fits = producer.op == op and len(producer.inputs) == own_inputs and len(producer.shape) == 2
            if not fits or product == residual or producer.shape[0] == R or graph.consumers(product) != [key]:
                continue
            graph.remove_node(product)
            graph.put(key, replace(producer, inputs=(*producer.inputs, residual), scope=node.scope))
            break


Pass = Callable[[Graph], None]
CLEANING: tuple[Pass, ...] = (share_equal, remove_dead, fold_scores, join_experts, start_sums)
FUSING: tuple[Pass, ...] = (hoist_gather, join_qkv, join_gate_up, fold_norm, fold_residual)
FUSING_FOR_MANY = tuple(fold_last_norm if apply is fold_norm else apply for apply in FUSING)
MANY_WORKERS = 32
"""More of them norm rows apart from products, of which each would prepare whole rows for a few columns."""


def rewrite(graph: Graph, fuse: bool = True, packing: Policy = as_stored, workers: int = 1) -> Graph:
    """Return a cleaned and, with `fuse`, fused copy of the graph, whose matrices are packed by a policy.

    Fused is what is faster on so many workers; results have the same bits on all.
    The verifier runs after every pass; GraphError.
    """
    graph = graph.copy()
    verify(graph, "trace")
    assign(graph, packing)
    fusing = FUSING if workers <= MANY_WORKERS else FUSING_FOR_MANY
    for apply in CLEANING + (fusing if fuse else ()):
        apply(graph)
        verify(graph, apply.__name__)
    return graph
