"""The dataflow graph of a model: a networkx DiGraph whose nodes are operators."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import networkx

from ellm.dsl.errors import ShapeError
from ellm.dsl.grammar import GRAMMAR
from ellm.dsl.node import Node
from ellm.dsl.source import error_line, model_line
from ellm.dsl.tensor import NOWHERE, Scope, Weight


class Graph(networkx.DiGraph):
    """Operators as nodes `id -> Node` (attribute "node"), an edge from each producer to each consumer.

    `graph.output` is the id of the node whose value the model returns.
    """

    @property
    def output(self) -> int:
        """Id of the node that the model returns."""
        return self.graph["output"]

    @output.setter
    def output(self, node: int) -> None:
        self.graph["output"] = node

    @property
    def context(self) -> int:
        """Most positions that the model was made for."""
        return self.graph["context"]

    def node(self, key: int) -> Node:
        """Return the operator with this id."""
        return self.nodes[key]["node"]

    def inputs(self, key: int) -> list[Node]:
        """Return the operators that a node reads, in order."""
        return [self.node(source) for source in self.node(key).inputs]

    def order(self) -> list[int]:
        """Return all ids so that producers come first; ties in order of creation."""
        return list(networkx.lexicographical_topological_sort(self))

    def items(self) -> Iterator[tuple[int, Node]]:
        """Yield (id, operator) with producers first."""
        return ((key, self.node(key)) for key in self.order())

    def consumers(self, key: int) -> list[int]:
        """Return the ids of the nodes that read this one, in order of creation."""
        return sorted(self.successors(key))

    def add_op(
        self,
        op: str,
        inputs: tuple[int, ...] = (),
        weights: dict[str, Weight] | None = None,
        attributes: dict[str, Any] | None = None,
    ) -> int:
        """Add an operator written on the caller's model line and return its id. Raises ShapeError."""
        weights = weights or {}
        node = Node(op, inputs, weights, attributes or {}, scope=self._scope(inputs, weights), line=model_line())
        key = self.graph["next"] = self.graph.get("next", -1) + 1
        self.put(key, self.shaped(node))
        return key

    def shaped(self, node: Node) -> Node:
        """Return the node with the shape that its rule gives. Raises ShapeError, naming the model line."""
        try:
            shape = GRAMMAR[node.op].rule(node, [self.node(source) for source in node.inputs])
        except ShapeError as error:
            raise ShapeError(f"{error_line(node.line)}: {node.op}: {error}") from None
        return replace(node, shape=shape)

    def put(self, key: int, node: Node) -> None:
        """Set the operator of an id, and its edges."""
        if key in self:
            self.remove_edges_from(list(self.in_edges(key)))
        self.add_node(key, node=node)
        self.add_edges_from((source, key) for source in node.inputs)

    def redirect(self, old: int, new: int) -> None:
        """Make every consumer of `old` read `new` instead."""
        for consumer in self.consumers(old):
            node = self.node(consumer)
            self.put(consumer, replace(node, inputs=tuple(new if key == old else key for key in node.inputs)))
        if self.output == old:
            self.output = new

    def _scope(self, inputs: tuple[int, ...], weights: dict[str, Weight]) -> Scope:
        """The block that an operator belongs to: that of its weight, else that of its last input that has one."""
        if weights:
            return next(iter(weights.values())).scope
        return next((self.node(key).scope for key in reversed(inputs) if self.node(key).scope), NOWHERE)
