"""What decoders share: attention, the gated MLP, shared and routed experts, the frame of embedding, blocks and head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ellm.dsl import (
    Cache,
    Caches,
    Routes,
    Value,
    Weights,
    attend,
    embed,
    experts,
    linear,
    logits,
    rms_norm,
    rope,
    route,
    sigmoid,
    swiglu,
)
from ellm.models.config import DecoderConfig, SharedExpertsConfig

__composites__ = True  # an error in one begins with the line of the model that calls it

Block = Callable[[Value, Weights, Cache, Any, int], Value]
"""(x [T, hidden], weights, cache, config, number) of a layer gives [T, hidden]."""


def attention(q: Value, k: Value, v: Value, cache: Cache, c: DecoderConfig, layer: int) -> Value:
    """Grouped-query attention with rope (Ainslie et al. 2023): q [T, heads, head_dim] gives the same shape; k and v are
    [T, kv heads, head_dim]."""
    kv = cache.append(k=rope(k, c.rope(layer)), v=v)
    return attend(rope(q, c.rope(layer)), kv["k"], kv["v"], scale=c.head_dim**-0.5, window=c.windows[layer])


def mlp(m: Value, w: Weights, d: int, n: int, bias: bool = False) -> Value:
    """down(silu(gate(m)) * up(m)), n wide: m [T, d] gives [T, d] (Shazeer 2020)."""
    h = swiglu(linear(m, w.gate_proj[n, d], bias=bias), linear(m, w.up_proj[n, d], bias=bias))
    return linear(h, w.down_proj[d, n], bias=bias)


def sigmoid_routes(m: Value, gate: Weights, c: SharedExpertsConfig) -> Routes:
    """Where rows m [T, hidden] go by the sigmoid of their scores, the best groups first; the gate has a bias for the
    choice only (DeepSeek-V3, section 2.1.2)."""
    n = c.n_routed_experts
    return route(
        sigmoid(linear(m, gate[n, c.hidden_size])),
        c.num_experts_per_tok,
        normalize=c.norm_topk_prob,
        scale=c.routed_scaling_factor,
        bias=gate.e_score_correction_bias[n],
        groups=c.n_group,
        keep_groups=c.topk_group,
        group_top=2,
        masked=float("-inf"),
    )


def shared_and_routed(x: Value, m: Value, w: Weights, routes: Routes, c: SharedExpertsConfig) -> Value:
    """x and, added to it, the shared experts, which are one MLP, and those that m is routed to: x, m [T, hidden]."""
    d, n = c.hidden_size, c.moe_intermediate_size
    x = x + mlp(m, w.shared_experts, d, n * c.n_shared_experts)
    return x + experts(routes, m, lambda rows, e: mlp(rows, w.experts[e], d, n))


def decoder(tokens: Value, w: Weights, caches: Caches, c: DecoderConfig, block: Block) -> Value:
    """Embedding, one block a layer, final norm and head, which is the embedding if `tie_word_embeddings`."""
    d, v = c.hidden_size, c.vocab_size
    x = embed(tokens, w.model.embed_tokens[v, d])
    for layer in range(c.num_hidden_layers):
        x = block(x, w.model.layers[layer], caches[layer], c, layer)
    x = rms_norm(x, w.model.norm[d], c.rms_norm_eps)
    return logits(x, w.model.embed_tokens[v, d] if c.tie_word_embeddings else w.lm_head[v, d])
