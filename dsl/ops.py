"""The operators of the DSL: plain functions over shaped values. `T` is the rows of a step, all sequences flattened.

Each raises ShapeError (one line: model line, both shapes, checkpoint weight) when its operands do not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ellm.dsl.errors import GraphError
from ellm.dsl.source import error_line
from ellm.dsl.tensor import Expert, R, Rope, Weight, features, text
from ellm.dsl.value import Cached, Routes, Value, Weights


def _record(op: str, inputs: tuple[Value, ...], weights: dict[str, Weight] | None = None, **attributes: Any) -> Value:
    graph = inputs[0].graph
    return Value(graph, graph.add_op(op, tuple(value.key for value in inputs), weights, attributes))


def embed(tokens: Value, table: Weights) -> Value:
    """Rows of `table[vocab, width]` for tokens [T]: [T, width]."""
    return _record("embed", (tokens,), {"weight": table("weight")})


def input_rows(tokens: Value, width: int) -> Value:
    """What whoever runs a step gives of each row beside its token: [T, width]."""
    return _record("input_rows", (tokens,), width=width)


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


def head_linear(x: Value, weight: Weights) -> Value:
    """Multiply each head of x [T, heads, in] with its own matrix of `weight[heads, out, in]`: [T, heads, out]."""
    return _record("head_linear", (x,), {"weight": weight("weight")})


def rope(x: Value, spec: Rope, interleaved: bool = False) -> Value:
    """Rotate each head of x [T, heads, head dim] by its row's position (Su et al. 2021).

    A Rope of n frequencies rotates a head's first 2 n dims, `rotary`, and leaves the rest as they are. Pairs are
    (i, i + rotary / 2), as in GPT-NeoX, or, `interleaved`, (2 i, 2 i + 1).
    """
    angles = Value(x.graph, x.graph.add_op("angles", attributes={"rope": spec}))
    return _record("rope", (x, angles), interleaved=True) if interleaved else _record("rope", (x, angles))


def concat(*parts: Value) -> Value:
    """Join parts that differ in their last dim alone, along it: [T, ..., sum]."""
    return _record("concat", parts)


def attend(q: Value, k: Cached, v: Cached, *, scale: float, window: int = 0, sinks: Weights | None = None) -> Value:
    """Causal grouped-query attention: softmax(scale * q . k) . v, of q [T, heads, dim]: [T, heads, value dim].

    A row at position p sees keys p - window + 1 .. p, all of 0 .. p with window 0. `sinks[heads]` are scores that take
    part in the softmax but have no value (Xiao et al. 2024; learned, as in gpt-oss). Raises GraphError if k and v are
    not the two halves of one `cache.append`.
    """
    if k.value != v.value or (k.part, v.part) != ("k", "v"):
        raise GraphError(f'{error_line()}: attend: k and v must be ["k"] and ["v"] of one cache.append')
    if window < 0:
        raise GraphError(f"{error_line()}: attend: window {window} is negative")
    cache = q.graph.node(k.value.key).attributes["cache"]
    weights = {} if sinks is None else {"sinks": sinks("")}
    return _record("attend", (q, k.value), weights, cache=cache, scale=scale, window=window)


def expand_latent(latents: dict[str, Cached], to_keys: Weights, to_values: Weights) -> dict[str, Cached]:
    """Keys and values of every head and position so far, of what a `cache.append(k, v=r)` of one KV head returned.

    A head's values are those of the cache, [S, r], times `to_values[heads, value dim, r]`; its keys those values times
    `to_keys[heads, dim, r]`, then the dims of the cached key after the first r (DeepSeek-V2, section 2.1).
    """
    source = latents["k"].value
    weights = {"k": to_keys("weight"), "v": to_values("weight")}
    value = Value(source.graph, source.graph.add_op("expand_latent", (source.key,), weights, {"cache": "expanded"}))
    return {"k": Cached(value, "k"), "v": Cached(value, "v")}


def swiglu(gate: Value, up: Value) -> Value:
    """silu(gate) * up, both [T, width] (Shazeer 2020)."""
    return _record("swiglu", (gate, up))


def clamped_swiglu(gate: Value, up: Value, *, limit: float, alpha: float) -> Value:
    """(u + 1) * g * sigmoid(alpha * g) with g = min(gate, limit), u = clamp(up, -limit, limit), as in gpt-oss."""
    return _record("swiglu", (gate, up), limit=limit, alpha=alpha)


def softmax(x: Value) -> Value:
    """softmax over the last dim of x [T, experts], for `route`."""
    return _record("softmax", (x,))


def sigmoid(x: Value) -> Value:
    """1 / (1 + exp(-x)) of x [T, experts], for `route`."""
    return _record("sigmoid", (x,))


def route(
    scores: Value,
    k: int,
    *,
    normalize: bool | str = False,
    scale: float = 1.0,
    bias: Weights | None = None,
    groups: int = 0,
    keep_groups: int = 0,
    group_top: int = 1,
    masked: float = 0.0,
) -> Routes:
    """Choose the k experts of each row that have the highest scores [T, experts]; ties go to the lower number.

    What an expert weighs is its score; with `normalize` True divided by the sum over those chosen, with "softmax" its
    softmax over those chosen; then times `scale`. `bias[experts]` is added to the scores for the choice only. With
    `groups`, experts are that many runs of equal length, and only those of the `keep_groups` best runs are eligible,
    the rest count as `masked`: a run's score is its highest (`group_top` 1) or the sum of its two highest (2).
    """
    how = normalize if isinstance(normalize, str) else "sum" if normalize else "none"
    weights = {} if bias is None else {"bias": bias("")}
    attributes: dict[str, Any] = {"k": k, "normalize": how, "scale": scale}
    if groups:
        attributes |= {"groups": groups, "keep_groups": keep_groups, "group_top": group_top, "masked": masked}
    value = _record("route", (scores,), weights, **attributes)
    return Routes(value, features(scores.shape)[0])


def experts(routes: Routes, x: Value, body: Callable[[Value, Expert], Value]) -> Value:
    """Sum over the experts e of each row of what e weighs times body(row, e): x [T, width] gives [T, width].

    `body(rows, e)` is called once, with symbolic rows [R, width] and a symbolic e for the indices of its weights. Only
    the experts that some row goes to are run.
    """
    rows = _record("dispatch", (routes.value, x))
    y = body(rows, Expert(routes.experts))
    if not isinstance(y, Value) or y.shape[0] != R:
        shape = text(y.shape) if isinstance(y, Value) else repr(y)
        raise GraphError(f"{error_line()}: experts: the body must return routed rows [R, width], it returned {shape}")
    return _record("combine", (routes.value, y))


def logits(x: Value, head: Weights) -> Value:
    """x . head[vocab, width]^T for the rows that want logits: [L, vocab]."""
    return _record("logits", (_record("gather", (x,)),), {"weight": head("weight")})
