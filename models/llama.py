"""Llama 1 to 3.2, SmolLM2 and Mistral: grouped-query attention, gated MLP, no norm on heads."""

from __future__ import annotations

from ellm.dsl import Cache, Value, Weights, linear, rms_norm
from ellm.models.config import DecoderConfig, Defaults, layer_windows, read_decoder
from ellm.models.fields import Fields
from ellm.models.layers import attention, mlp


def llama_block(x: Value, w: Weights, cache: Cache, c: DecoderConfig, layer: int) -> Value:
    """One layer: x [T, hidden] gives [T, hidden]."""
    d, h, g, k, eps = c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim, c.rms_norm_eps
    a = rms_norm(x, w.input_layernorm[d], eps)
    query = linear(a, w.self_attn.q_proj[h, k, d], bias=c.attention_bias)
    key = linear(a, w.self_attn.k_proj[g, k, d], bias=c.attention_bias)
    value = linear(a, w.self_attn.v_proj[g, k, d], bias=c.attention_bias)
    o = attention(query, key, value, cache, c, layer)
    x = x + linear(o, w.self_attn.o_proj[d, h, k], bias=c.attention_bias)
    m = rms_norm(x, w.post_attention_layernorm[d], eps)
    return x + mlp(m, w.mlp, d, c.intermediate_size, bias=c.mlp_bias)


def read_llama(fields: Fields) -> DecoderConfig:
    """Read the config of a LlamaForCausalLM. Raises InputError."""
    return read_decoder(
        fields,
        Defaults(max_position_embeddings=2048),
        attention_bias=fields.flag("attention_bias"),
        mlp_bias=fields.flag("mlp_bias"),
        windows=(0,) * fields.size("num_hidden_layers"),
    )


def read_mistral(fields: Fields) -> DecoderConfig:
    """Read the config of a MistralForCausalLM: one window for all layers, or layer_types. Raises InputError."""
    sliding = not fields.is_null("sliding_window")
    if fields.get("layer_types") is not None:
        windows = layer_windows(fields.over(use_sliding_window=sliding))
    else:
        windows = (fields.size("sliding_window", 4096) if sliding else 0,) * fields.size("num_hidden_layers")
    return read_decoder(
        fields,
        Defaults(num_key_value_heads=8, max_position_embeddings=131072),
        attention_bias=False,
        windows=windows,
    )
