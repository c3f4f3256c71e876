"""The language that models are written in, and the compiler from it to a `Program`."""

from ellm.dsl.compiler import compile, compile_all
from ellm.dsl.errors import GraphError, LoweringError, ShapeError
from ellm.dsl.graph import Graph
from ellm.dsl.ops import (
    attend,
    clamped_swiglu,
    concat,
    embed,
    expand_latent,
    experts,
    head_linear,
    input_rows,
    linear,
    logits,
    rms_norm,
    rope,
    route,
    sigmoid,
    softmax,
    swiglu,
)
from ellm.dsl.policy import Policy, as_stored, packed_as, packing_of, packings_of
from ellm.dsl.tensor import Dim, Expert, Rope
from ellm.dsl.trace import trace
from ellm.dsl.value import Cache, Caches, Precision, Routes, Value, Weights

__all__ = [
    "Cache",
    "Caches",
    "Dim",
    "Expert",
    "Graph",
    "GraphError",
    "LoweringError",
    "Policy",
    "Precision",
    "Rope",
    "Routes",
    "ShapeError",
    "Value",
    "Weights",
    "as_stored",
    "attend",
    "clamped_swiglu",
    "compile",
    "compile_all",
    "concat",
    "embed",
    "expand_latent",
    "experts",
    "head_linear",
    "input_rows",
    "linear",
    "logits",
    "packed_as",
    "packing_of",
    "packings_of",
    "rms_norm",
    "rope",
    "route",
    "sigmoid",
    "softmax",
    "swiglu",
    "trace",
]
