"""GLM-4.5 and 4.6: half of each head's dims are rotated; sigmoid routing beside shared experts, as in DeepSeek-V3."""

from __future__ import annotations

from dataclasses import dataclass

from ellm.dsl import Cache, Value, Weights, linear, rms_norm
from ellm.models.config import Defaults, SharedExpertsConfig, read_decoder, read_shared_experts
from ellm.models.fields import Fields
from ellm.models.layers import attention, mlp, shared_and_routed, sigmoid_routes


@dataclass(frozen=True)
class Glm4MoeConfig(SharedExpertsConfig):
    """As config.json has it."""

    use_qk_norm: bool


def glm4_moe_block(x: Value, w: Weights, cache: Cache, c: Glm4MoeConfig, layer: int) -> Value:
    """One layer: x [T, hidden] gives [T, hidden]."""
    d, h, g, k, eps = c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim, c.rms_norm_eps
    a = rms_norm(x, w.input_layernorm[d], eps)
    query = linear(a, w.self_attn.q_proj[h, k, d], bias=c.attention_bias)
    key = linear(a, w.self_attn.k_proj[g, k, d], bias=c.attention_bias)
    value = linear(a, w.self_attn.v_proj[g, k, d], bias=c.attention_bias)
    if c.use_qk_norm:
        query, key = rms_norm(query, w.self_attn.q_norm[k], eps), rms_norm(key, w.self_attn.k_norm[k], eps)
    x = x + linear(attention(query, key, value, cache, c, layer), w.self_attn.o_proj[d, h, k])
    m = rms_norm(x, w.post_attention_layernorm[d], eps)
    if layer < c.first_k_dense_replace:
        return x + mlp(m, w.mlp, d, c.intermediate_size)
    return shared_and_routed(x, m, w.mlp, sigmoid_routes(m, w.mlp.gate, c), c)


def read_glm4_moe(fields: Fields) -> Glm4MoeConfig:
    """Read the config of a Glm4MoeForCausalLM. Raises InputError."""
    base = read_decoder(
        fields,
        Defaults(num_key_value_heads=8, max_position_embeddings=131072, rms_norm_eps=1e-5, partial_rotary_factor=0.5),
        attention_bias=fields.flag("attention_bias"),
        windows=(0,) * fields.size("num_hidden_layers"),
    )
    shared = read_shared_experts(
        fields,
        base,
        group_top=2,
        n_routed_experts=128,
        num_experts_per_tok=8,
        n_group=1,
        topk_group=1,
        n_shared_experts=1,
        moe_intermediate_size=1408,
        first_k_dense_replace=1,
        norm_topk_prob=True,
    )
    return Glm4MoeConfig(**vars(shared), use_qk_norm=fields.flag("use_qk_norm"))
