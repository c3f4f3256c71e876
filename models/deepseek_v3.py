"""DeepSeek-V3 and R1, and Kimi K2: latent attention; sigmoid routing within groups, with a bias for the choice only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ellm.dsl import Cache, Value, Weights, experts, linear, rms_norm, route, sigmoid
from ellm.models.config import Fields
from ellm.models.layers import mlp
from ellm.models.mla import DeepseekConfig, latent_attention, read_deepseek


def deepseek_v3_block(x: Value, w: Weights, cache: Cache, c: DeepseekConfig, layer: int) -> Value:
    """One layer: x [T, hidden] gives [T, hidden]."""
    d, eps, n = c.hidden_size, c.rms_norm_eps, c.moe_intermediate_size
    x = x + latent_attention(rms_norm(x, w.input_layernorm[d], eps), w.self_attn, cache, c)
    m = rms_norm(x, w.post_attention_layernorm[d], eps)
    if layer < c.first_k_dense_replace:
        return x + mlp(m, w.mlp, d, c.intermediate_size)
    routes = route(
        sigmoid(linear(m, w.mlp.gate[c.n_routed_experts, d])),
        c.num_experts_per_tok,
        normalize=c.norm_topk_prob,
        scale=c.routed_scaling_factor,
        bias=w.mlp.gate.e_score_correction_bias[c.n_routed_experts],
        groups=c.n_group,
        keep_groups=c.topk_group,
        group_top=2,
        masked=float("-inf"),
    )
    x = x + mlp(m, w.mlp.shared_experts, d, n * c.n_shared_experts)
    return x + experts(routes, m, lambda rows, e: mlp(rows, w.mlp.experts[e], d, n))


def read_deepseek_v3(config: Mapping[str, Any]) -> DeepseekConfig:
    """Read the config of a DeepseekV3ForCausalLM. Raises InputError."""
    fields = Fields(config)
    for name, only in (("scoring_func", "sigmoid"), ("topk_method", "noaux_tc"), ("moe_layer_freq", 1)):
        if config.get(name, only) != only:
            raise fields.error(name, f"is not supported, only {only} is")
    c = read_deepseek(
        config,
        grouped=True,
        max_position_embeddings=4096,
        q_lora_rank=1536,
        n_routed_experts=256,
        n_shared_experts=1,
        num_experts_per_tok=8,
        n_group=8,
        topk_group=4,
        first_k_dense_replace=3,
        moe_intermediate_size=2048,
        routed_scaling_factor=2.5,
        norm_topk_prob=True,
    )
    if c.n_routed_experts // c.n_group < 2:
        raise fields.error("n_group", f"leaves groups of 1 of n_routed_experts {c.n_routed_experts}, 2 are summed")
    return c
