"""Turns a model function into a graph by calling it once."""

from __future__ import annotations

from collections.abc import Callable

from ellm.dsl.errors import GraphError
from ellm.dsl.grammar import GRAMMAR, Effect
from ellm.dsl.graph import Graph
from ellm.dsl.source import model_line
from ellm.dsl.tensor import Dim
from ellm.dsl.value import Caches, Precision, Value, Weights

ModelFunction = Callable[[Value, Weights, Caches], Value]


def trace(function: ModelFunction, context: int, precision: Precision | None = None) -> Graph:
    """Call `function(tokens, w, caches)` and return the graph of what it computes.

    `context` is the most positions the model was made for; `precision` says what the checkpoint stores a tensor in,
    bf16 by default. Raises ShapeError for operands that do not fit, GraphError if the function does not return logits.
    """
    graph = Graph(context=context)
    tokens = Value(graph, graph.add_op("tokens"))
    result = function(tokens, Weights(_precision=precision), Caches(Dim("S", context)))
    if not isinstance(result, Value) or GRAMMAR[graph.node(result.key).op].effect is not Effect.ANSWERS:
        raise GraphError(f"{model_line()}: a model must return logits(...), this one returned {result}")
    graph.output = result.key
    return graph
