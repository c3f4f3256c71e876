"""The language that models are written in, and the compiler from it to a `Program`."""

from ellm.dsl.compiler import compile
from ellm.dsl.errors import GraphError, InputError, LoweringError, ShapeError
from ellm.dsl.graph import Graph
from ellm.dsl.ops import attend, embed, linear, logits, rms_norm, rope, swiglu
from ellm.dsl.tensor import Dim, Rope
from ellm.dsl.trace import trace
from ellm.dsl.value import Cache, Caches, Value, Weights

__all__ = [
    "Cache",
    "Caches",
    "Dim",
    "Graph",
    "GraphError",
    "InputError",
    "LoweringError",
    "Rope",
    "ShapeError",
    "Value",
    "Weights",
    "attend",
    "compile",
    "embed",
    "linear",
    "logits",
    "rms_norm",
    "rope",
    "swiglu",
    "trace",
]
