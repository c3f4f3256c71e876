"""Qwen3, dense: a norm on each head of q and k before rope; the head size is its own number."""

from __future__ import annotations

from ellm.dsl import Cache, Value, Weights, linear, rms_norm
from ellm.models.config import DecoderConfig, Defaults, layer_windows, read_decoder
from ellm.models.fields import Fields
from ellm.models.layers import attention, mlp


def qwen3_attention(x: Value, w: Weights, cache: Cache, c: DecoderConfig, layer: int) -> Value:
    """x and, added to it, attention of its norm: x [T, hidden] gives [T, hidden]."""
    d, h, g, k, eps = c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim, c.rms_norm_eps
    a = rms_norm(x, w.input_layernorm[d], eps)
    query = rms_norm(linear(a, w.self_attn.q_proj[h, k, d], bias=c.attention_bias), w.self_attn.q_norm[k], eps)
    key = rms_norm(linear(a, w.self_attn.k_proj[g, k, d], bias=c.attention_bias), w.self_attn.k_norm[k], eps)
    value = linear(a, w.self_attn.v_proj[g, k, d], bias=c.attention_bias)
    o = attention(query, key, value, cache, c, layer)
    return x + linear(o, w.self_attn.o_proj[d, h, k], bias=c.attention_bias)


def qwen3_block(x: Value, w: Weights, cache: Cache, c: DecoderConfig, layer: int) -> Value:
    """One layer: x [T, hidden] gives [T, hidden]."""
    x = qwen3_attention(x, w, cache, c, layer)
    m = rms_norm(x, w.post_attention_layernorm[c.hidden_size], c.rms_norm_eps)
    return x + mlp(m, w.mlp, c.hidden_size, c.intermediate_size)


def read_qwen3(fields: Fields) -> DecoderConfig:
    """Read the config of a Qwen3ForCausalLM. Raises InputError."""
    return read_decoder(
        fields,
        Defaults(head_dim=128, num_key_value_heads=32),
        attention_bias=fields.flag("attention_bias"),
        windows=layer_windows(fields),
    )
