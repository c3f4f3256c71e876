"""What a graph has at each of its nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ellm.dsl.tensor import NOWHERE, Scope, Shape, Weight


@dataclass(frozen=True)
class Node:
    """One operator of a graph.

    `inputs` are the ids of the nodes it reads, in the order of its form. `scope` is the block it belongs to,
    and `line` the model line that wrote it.
    """

    op: str
    inputs: tuple[int, ...]
    weights: dict[str, Weight] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    shape: Shape = ()
    scope: Scope = NOWHERE
    line: str = ""
