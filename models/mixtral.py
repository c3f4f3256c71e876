"""Mixtral: Llama's attention; every MLP is a few of several experts, weighed by the softmax over those chosen."""

from __future__ import annotations

from dataclasses import dataclass

from ellm.dsl import Cache, Expert, Value, Weights, experts, linear, rms_norm, route, softmax, swiglu
from ellm.models.config import DecoderConfig, Defaults, read_decoder, read_experts
from ellm.models.fields import Fields
from ellm.models.layers import attention


@dataclass(frozen=True)
class MixtralConfig(DecoderConfig):
    """As config.json has it."""

    num_local_experts: int
    num_experts_per_tok: int


def mixtral_block(x: Value, w: Weights, cache: Cache, c: MixtralConfig, layer: int) -> Value:
    """One layer: x [T, hidden] gives [T, hidden]."""
    d, h, g, k, eps = c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim, c.rms_norm_eps
    n, moe = c.intermediate_size, w.block_sparse_moe
    a = rms_norm(x, w.input_layernorm[d], eps)
    query, key = linear(a, w.self_attn.q_proj[h, k, d]), linear(a, w.self_attn.k_proj[g, k, d])
    value = linear(a, w.self_attn.v_proj[g, k, d])
    x = x + linear(attention(query, key, value, cache, c, layer), w.self_attn.o_proj[d, h, k])
    m = rms_norm(x, w.post_attention_layernorm[d], eps)
    scores = softmax(linear(m, moe.gate[c.num_local_experts, d]))
    routes = route(scores, c.num_experts_per_tok, normalize=True)

    def expert(rows: Value, e: Expert) -> Value:
        gate, up = linear(rows, moe.experts[e].w1[n, d]), linear(rows, moe.experts[e].w3[n, d])
        return linear(swiglu(gate, up), moe.experts[e].w2[d, n])

    return x + experts(routes, m, expert)


def read_mixtral(fields: Fields) -> MixtralConfig:
    """Read the config of a MixtralForCausalLM. Raises InputError."""
    window = fields.size("sliding_window") if fields.get("sliding_window") is not None else 0
    base = read_decoder(
        fields,
        Defaults(num_key_value_heads=8, max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=1e6),
        attention_bias=False,
        windows=(window,) * fields.size("num_hidden_layers"),
    )
    count, top_k = read_experts(fields, "num_local_experts", "num_experts", chosen=2)
    return MixtralConfig(**vars(base), num_local_experts=count, num_experts_per_tok=top_k)
