"""DeepSeek-V2 and V2-Lite: latent attention; softmax routing, among all experts or within groups."""

from __future__ import annotations

from ellm.dsl import Cache, Value, Weights, linear, rms_norm, route, softmax
from ellm.models.fields import Fields
from ellm.models.layers import mlp, shared_and_routed
from ellm.models.mla import DeepseekConfig, latent_attention, read_deepseek


def deepseek_v2_block(x: Value, w: Weights, cache: Cache, c: DeepseekConfig, layer: int) -> Value:
    """One layer: x [T, hidden] gives [T, hidden]."""
    d, eps = c.hidden_size, c.rms_norm_eps
    x = x + latent_attention(rms_norm(x, w.input_layernorm[d], eps), w.self_attn, cache, c, layer)
    m = rms_norm(x, w.post_attention_layernorm[d], eps)
    if layer < c.first_k_dense_replace:
        return x + mlp(m, w.mlp, d, c.intermediate_size)
    routes = route(
        softmax(linear(m, w.mlp.gate[c.n_routed_experts, d])),
        c.num_experts_per_tok,
        scale=c.routed_scaling_factor,
        groups=c.n_group,
        keep_groups=c.topk_group,
        group_top=1,
    )
    return shared_and_routed(x, m, w.mlp, routes, c)


def read_deepseek_v2(fields: Fields) -> DeepseekConfig:
    """Read the config of a DeepseekV2ForCausalLM. Raises InputError.

    As in transformers, norm_topk_prob has no effect and rope is always interleaved.
    """
    method = fields.get("topk_method", "greedy")
    if method not in ("greedy", "group_limited_greedy"):
        raise fields.error("topk_method", "is not greedy or group_limited_greedy")
    for name, only in (("scoring_func", "softmax"), ("moe_layer_freq", 1), ("mlp_bias", False)):
        fields.require(name, only)
    return read_deepseek(
        fields.over(rope_interleave=True),
        group_top=1 if method == "group_limited_greedy" else 0,
        max_position_embeddings=2048,
        n_routed_experts=64,
        n_shared_experts=2,
        moe_intermediate_size=1407,
    )
