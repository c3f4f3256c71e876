"""Qwen2 and Qwen2.5: as Llama, with biases on q, k and v but not on o."""

from __future__ import annotations

from ellm.dsl import Cache, Value, Weights, linear, rms_norm
from ellm.models.config import DecoderConfig, Defaults, layer_windows, read_decoder
from ellm.models.fields import Fields
from ellm.models.layers import attention, mlp


def qwen2_block(x: Value, w: Weights, cache: Cache, c: DecoderConfig, layer: int) -> Value:
    """One layer: x [T, hidden] gives [T, hidden]."""
    d, h, g, k, eps = c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim, c.rms_norm_eps
    a = rms_norm(x, w.input_layernorm[d], eps)
    query = linear(a, w.self_attn.q_proj[h, k, d], bias=True)
    key = linear(a, w.self_attn.k_proj[g, k, d], bias=True)
    value = linear(a, w.self_attn.v_proj[g, k, d], bias=True)
    x = x + linear(attention(query, key, value, cache, c, layer), w.self_attn.o_proj[d, h, k])
    return x + mlp(rms_norm(x, w.post_attention_layernorm[d], eps), w.mlp, d, c.intermediate_size)


def read_qwen2(fields: Fields) -> DecoderConfig:
    """Read the config of a Qwen2ForCausalLM. Raises InputError."""
    return read_decoder(fields, Defaults(num_key_value_heads=32), attention_bias=False, windows=layer_windows(fields))
