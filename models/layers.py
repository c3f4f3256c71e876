"""What decoders share: grouped-query attention, the gated MLP, and the frame of embedding, blocks, norm and head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ellm.dsl import Cache, Caches, Value, Weights, attend, embed, linear, logits, rms_norm, rope, swiglu
from ellm.models.config import DecoderConfig

Block = Callable[[Value, Weights, Cache, Any, int], Value]
"""(x [T, hidden], weights, cache, config, number) of a layer gives [T, hidden]."""


def attention(q: Value, k: Value, v: Value, cache: Cache, c: DecoderConfig, layer: int) -> Value:
    """Grouped-query attention with rope (Ainslie et al. 2023): q [T, heads, head_dim] gives the same shape; k and v are
    [T, kv heads, head_dim]."""
    kv = cache.append(k=rope(k, c.rope), v=v)
    return attend(rope(q, c.rope), kv["k"], kv["v"], scale=c.head_dim**-0.5, window=c.windows[layer])


def mlp(m: Value, w: Weights, d: int, n: int, bias: bool = False) -> Value:
    """down(silu(gate(m)) * up(m)), n wide: m [T, d] gives [T, d] (Shazeer 2020)."""
    h = swiglu(linear(m, w.gate_proj[n, d], bias=bias), linear(m, w.up_proj[n, d], bias=bias))
    return linear(h, w.down_proj[d, n], bias=bias)


def decoder(tokens: Value, w: Weights, caches: Caches, c: DecoderConfig, block: Block) -> Value:
    """Embedding, one block a layer, final norm and head, which is the embedding if `tie_word_embeddings`."""
    d, v = c.hidden_size, c.vocab_size
    x = embed(tokens, w.model.embed_tokens[v, d])
    for layer in range(c.num_hidden_layers):
        x = block(x, w.model.layers[layer], caches[layer], c, layer)
    x = rms_norm(x, w.model.norm[d], c.rms_norm_eps)
    return logits(x, w.model.embed_tokens[v, d] if c.tie_word_embeddings else w.lm_head[v, d])
