"""Prints a graph, one line a node."""

from __future__ import annotations

from ellm.dsl.graph import Graph
from ellm.dsl.tensor import text as shape_text


def text(graph: Graph, lines: bool = False) -> str:
    """Return a line like `%4 = linear(%3) [T, 64] weight=<name>[64, 96]` for each node, producers first.

    `lines` adds the model line that each was written on.
    """
    names = {key: f"%{number}" for number, key in enumerate(graph.order())}
    return "\n".join(_line(graph, key, names, lines) for key in names) + "\n"


def _line(graph: Graph, key: int, names: dict[int, str], lines: bool) -> str:
    node = graph.node(key)
    inputs = ", ".join(names[source] for source in node.inputs)
    parts = [f"{names[key]} = {node.op}({inputs})", shape_text(node.shape)]
    parts += [f"{role}={weight}" for role, weight in node.weights.items()]
    parts += [f"{name}={value}" for name, value in node.attributes.items()]
    if key == graph.output:
        parts.append("-> output")
    if lines:
        parts.append(f"# {node.line}")
    return " ".join(parts)
