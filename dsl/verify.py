"""Checks that a graph is well formed; runs after tracing and after every rewrite."""

from __future__ import annotations

import networkx

from ellm.dsl.errors import GraphError, ShapeError
from ellm.dsl.grammar import GRAMMAR, Effect, missing
from ellm.dsl.graph import Graph
from ellm.dsl.tensor import L, T, text


def verify(graph: Graph, after: str) -> None:
    """Raise GraphError, naming the pass that ran last (`after`) and the model line, if the graph breaks the grammar."""
    if not networkx.is_directed_acyclic_graph(graph):
        raise GraphError(f"after {after}: the graph has a cycle: {networkx.find_cycle(graph)}")
    if graph.output not in graph or GRAMMAR[graph.node(graph.output).op].effect is not Effect.ANSWERS:
        raise GraphError(f"after {after}: the graph does not end in logits")
    for key in graph.order():
        _verify_node(graph, key, after)
    _verify_caches(graph, after)
    gathers = [key for key in networkx.ancestors(graph, graph.output) if _gathers(graph, key)]
    if len(gathers) != 1:
        raise GraphError(f"after {after}: {len(gathers)} gathers lead to the logits, must be 1")


def _verify_node(graph: Graph, key: int, after: str) -> None:
    node = graph.node(key)
    where = f"{node.line}: after {after}: {node.op}"
    form = GRAMMAR.get(node.op)
    if form is None:
        raise GraphError(f"{where}: no such operator; there are {', '.join(GRAMMAR)}")
    required = sum(not name.endswith("?") for name in form.inputs)
    many = any(name.endswith("...") for name in form.inputs)
    if not required <= len(node.inputs) <= (len(node.inputs) if many else len(form.inputs)):
        raise GraphError(f"{where}: has {len(node.inputs)} inputs, takes ({', '.join(form.inputs)})")
    if set(graph.predecessors(key)) != set(node.inputs):
        edges = sorted(graph.predecessors(key))
        raise GraphError(f"{where}: reads {sorted(set(node.inputs))}, its edges come from {edges}")
    for names, present in ((form.weights, node.weights), (form.attributes, node.attributes)):
        problem = missing(names, list(present))
        if problem:
            raise GraphError(f"{where}: {problem}")
    try:
        shape = form.rule(node, graph.inputs(key))
    except ShapeError as error:
        raise ShapeError(f"{where}: {error}") from None
    if shape != node.shape:
        raise ShapeError(f"{where}: is said to be {text(node.shape)}, its operands make it {text(shape)}")


def _gathers(graph: Graph, key: int) -> bool:
    """Whether a node takes the rows that want logits out of all rows."""
    return graph.node(key).shape[:1] == (L,) and any(node.shape[:1] == (T,) for node in graph.inputs(key))


def _verify_caches(graph: Graph, after: str) -> None:
    writers: dict[str, str] = {}
    for _, node in graph.items():
        if GRAMMAR[node.op].effect is Effect.APPENDS:
            cache = node.attributes["cache"]
            if cache in writers:
                raise GraphError(f"{node.line}: after {after}: {cache} is already appended to at {writers[cache]}")
            writers[cache] = node.line
