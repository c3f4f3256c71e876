"""The words of the language: plain functions over shaped values. `T` is the rows of a step, all sequences flattened.

Each raises ShapeError (one line: model line, both shapes, checkpoint weight) when its operands do not fit.
"""

from __future__ import annotations

from typing import Any

from ellm.dsl.errors import GraphError
from ellm.dsl.source import model_line
from ellm.dsl.tensor import Rope, Weight
from ellm.dsl.value import Cached, Value, Weights


def _record(op: str, inputs: tuple[Value, ...], weights: dict[str, Weight] | None = None, **attributes: Any) -> Value:
    graph = inputs[0].graph
    return Value(graph, graph.add_op(op, tuple(value.key for value in inputs), weights, attributes))


def embed(tokens: Value, table: Weights) -> Value:
    """Rows of `table[vocab, width]` for tokens [T]: [T, width]."""
    return _record("embed", (tokens,), {"weight": table("weight")})


def rms_norm(x: Value, weight: Weights, eps: float) -> Value:
    """x * rsqrt(mean(x^2) + eps) * weight over the last dim; `weight[width]` (Zhang & Sennrich 2019)."""
    return _record("rms_norm", (x,), {"weight": weight("weight")}, eps=eps)


def linear(x: Value, weight: Weights, bias: bool = False) -> Value:
    """Contract all dims of x [T, *in] after its rows with `weight[*out, *in]`: [T, *out].

    With `bias`, the checkpoint's "<path>.bias" of shape [*out] is added.
    """
    weights = {"weight": weight("weight")}
    if bias:
        weights["bias"] = weight("bias", 1 - len(x.shape))
    return _record("linear", (x,), weights)


def rope(x: Value, spec: Rope) -> Value:
    """Rotate each head of x [T, heads, head dim] by its row's position (Su et al. 2021; halves, as in GPT-NeoX)."""
    return _record("rope", (x, Value(x.graph, x.graph.add_op("angles", attributes={"rope": spec}))))


def attend(q: Value, k: Cached, v: Cached, *, scale: float, window: int = 0) -> Value:
    """Causal grouped-query attention: softmax(scale * q . k) . v per head: q [T, heads, head dim] gives the same shape.

    A row at position p sees keys p - window + 1 .. p, all of 0 .. p with window 0. Raises GraphError if k and v are not
    the two halves of one `cache.append`.
    """
    if k.value != v.value or (k.part, v.part) != ("k", "v"):
        raise GraphError(f'{model_line()}: attend: k and v must be ["k"] and ["v"] of one cache.append')
    if window < 0:
        raise GraphError(f"{model_line()}: attend: window {window} is negative")
    cache = q.graph.node(k.value.key).attributes["cache"]
    return _record("attend", (q, k.value), cache=cache, scale=scale, window=window)


def swiglu(gate: Value, up: Value) -> Value:
    """silu(gate) * up, both [T, width] (Shazeer 2020)."""
    return _record("swiglu", (gate, up))


def logits(x: Value, head: Weights) -> Value:
    """x . head[vocab, width]^T for the rows that want logits: [L, vocab]."""
    return _record("logits", (_record("gather", (x,)),), {"weight": head("weight")})
