"""DeepSeek-V3 and R1, and Kimi K2: latent attention; sigmoid routing within groups, with a bias for the choice only."""

from __future__ import annotations

from ellm.dsl import Cache, Value, Weights, rms_norm
from ellm.models.fields import Fields
from ellm.models.layers import mlp, shared_and_routed, sigmoid_routes
from ellm.models.mla import DeepseekConfig, latent_attention, read_deepseek


def deepseek_v3_block(x: Value, w: Weights, cache: Cache, c: DeepseekConfig, layer: int) -> Value:
    """One layer: x [T, hidden] gives [T, hidden]."""
    d, eps = c.hidden_size, c.rms_norm_eps
    x = x + latent_attention(rms_norm(x, w.input_layernorm[d], eps), w.self_attn, cache, c, layer)
    m = rms_norm(x, w.post_attention_layernorm[d], eps)
    if layer < c.first_k_dense_replace:
        return x + mlp(m, w.mlp, d, c.intermediate_size)
    return shared_and_routed(x, m, w.mlp, sigmoid_routes(m, w.mlp.gate, c), c)


def read_deepseek_v3(fields: Fields) -> DeepseekConfig:
    """Read the config of a DeepseekV3ForCausalLM. Raises InputError."""
    for name, only in (("scoring_func", "sigmoid"), ("topk_method", "noaux_tc"), ("moe_layer_freq", 1)):
        fields.require(name, only)
    return read_deepseek(
        fields,
        group_top=2,
        max_position_embeddings=4096,
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
