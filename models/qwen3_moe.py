"""Qwen3-MoE: Qwen3's attention, one window for all layers; in sparse layers a row goes to a few of many experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ellm.dsl import Cache, Value, Weights, experts, linear, rms_norm, route, softmax
from ellm.models.config import DecoderConfig, Defaults, Fields, read_decoder, read_experts
from ellm.models.layers import attention, mlp


@dataclass(frozen=True)
class Qwen3MoeConfig(DecoderConfig):
    """As config.json has it; `sparse` has one flag a layer: whether its MLP is made of experts."""

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    norm_topk_prob: bool
    sparse: tuple[bool, ...]


def qwen3_moe_block(x: Value, w: Weights, cache: Cache, c: Qwen3MoeConfig, layer: int) -> Value:
    """One layer: x [T, hidden] gives [T, hidden]."""
    d, h, g, k, eps = c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim, c.rms_norm_eps
    a = rms_norm(x, w.input_layernorm[d], eps)
    query = rms_norm(linear(a, w.self_attn.q_proj[h, k, d], bias=c.attention_bias), w.self_attn.q_norm[k], eps)
    key = rms_norm(linear(a, w.self_attn.k_proj[g, k, d], bias=c.attention_bias), w.self_attn.k_norm[k], eps)
    value = linear(a, w.self_attn.v_proj[g, k, d], bias=c.attention_bias)
    o = attention(query, key, value, cache, c, layer)
    x = x + linear(o, w.self_attn.o_proj[d, h, k], bias=c.attention_bias)
    m = rms_norm(x, w.post_attention_layernorm[d], eps)
    if not c.sparse[layer]:
        return x + mlp(m, w.mlp, d, c.intermediate_size)
    scores = softmax(linear(m, w.mlp.gate[c.num_experts, d]))
    routes = route(scores, c.num_experts_per_tok, normalize=c.norm_topk_prob)
    return x + experts(routes, m, lambda rows, e: mlp(rows, w.mlp.experts[e], d, c.moe_intermediate_size))


def read_qwen3_moe(config: Mapping[str, Any]) -> Qwen3MoeConfig:
    """Read the config of a Qwen3MoeForCausalLM. Raises InputError."""
    fields = Fields(config)
    used = fields.flag("use_sliding_window") and config.get("sliding_window", 4096) is not None
    window = fields.size("sliding_window", 4096) if used else 0
    base = read_decoder(
        config,
        Defaults(num_key_value_heads=4),
        attention_bias=fields.flag("attention_bias"),
        windows=(window,) * fields.size("num_hidden_layers"),
    )
    count, top_k = read_experts(config, "num_experts", "num_local_experts", chosen=8)
    return Qwen3MoeConfig(
        **vars(base),
        num_experts=count,
        num_experts_per_tok=top_k,
        moe_intermediate_size=fields.size("moe_intermediate_size", 768),
        norm_topk_prob=fields.flag("norm_topk_prob"),
        sparse=_sparse_layers(config, base.num_hidden_layers),
    )


def _sparse_layers(config: Mapping[str, Any], layers: int) -> tuple[bool, ...]:
    """Every `decoder_sparse_step`-th layer, without `mlp_only_layers`."""
    fields = Fields(config)
    dense = config.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(isinstance(layer, int) for layer in dense):
        raise fields.error("mlp_only_layers", "is not a list of layers")
    step = fields.size("decoder_sparse_step", 1)
    return tuple((layer + 1) % step == 0 and layer not in dense for layer in range(layers))
