"""gpt-oss: attention with sinks and every other layer a sliding window, experts with biases and a clamped swiglu."""

from __future__ import annotations

from dataclasses import dataclass

from ellm.dsl import Cache, Expert, Value, Weights, attend, clamped_swiglu, experts, linear, rms_norm, rope, route
from ellm.models.config import DecoderConfig, Defaults, read_decoder, read_experts, typed_windows
from ellm.models.fields import Fields

_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


@dataclass(frozen=True)
class GptOssConfig(DecoderConfig):
    """As config.json has it.

    With `experts_apart` (of GGUF files), each expert has tensors of its own [out, in]; without, all are in one tensor
    [in, out], gate and up in turns.
    """

    num_local_experts: int
    num_experts_per_tok: int
    swiglu_limit: float
    swiglu_alpha: float
    experts_apart: bool


def gpt_oss_block(x: Value, w: Weights, cache: Cache, c: GptOssConfig, layer: int) -> Value:
    """One layer: x [T, hidden] gives [T, hidden]."""
    d, h, g, k, eps = c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim, c.rms_norm_eps
    bias, attn = c.attention_bias, w.self_attn
    a = rms_norm(x, w.input_layernorm[d], eps)
    query, key = linear(a, attn.q_proj[h, k, d], bias=bias), linear(a, attn.k_proj[g, k, d], bias=bias)
    kv = cache.append(k=rope(key, c.rope(layer)), v=linear(a, attn.v_proj[g, k, d], bias=bias))
    window = c.windows[layer]
    o = attend(rope(query, c.rope(layer)), kv["k"], kv["v"], scale=k**-0.5, window=window, sinks=attn.sinks[h])
    x = x + linear(o, attn.o_proj[d, h, k], bias=bias)
    m = rms_norm(x, w.post_attention_layernorm[d], eps)
    scores = linear(m, w.mlp.router[c.num_local_experts, d], bias=True)
    routes = route(scores, c.num_experts_per_tok, normalize="softmax")
    return x + experts(routes, m, lambda rows, e: expert(rows, e, w.mlp.experts, c))


def expert(rows: Value, e: Expert, w: Weights, c: GptOssConfig) -> Value:
    """Expert e on the rows routed to it: [R, hidden] gives [R, hidden]."""
    d, n = c.hidden_size, c.intermediate_size
    if c.experts_apart:
        gate, up, down = w[e].gate_proj[n, d], w[e].up_proj[n, d], w[e].down_proj[d, n]
    else:
        gate, up = w.gate_up_proj[e, d, 2 * n].transposed.interleaved(2)
        down = w.down_proj[e, n, d].transposed
    y = clamped_swiglu(
        linear(rows, gate, bias=True), linear(rows, up, bias=True), limit=c.swiglu_limit, alpha=c.swiglu_alpha
    )
    return linear(y, down, bias=True)


def read_gpt_oss(fields: Fields) -> GptOssConfig:
    """Read the config of a GptOssForCausalLM. Raises InputError."""
    layers, window = fields.size("num_hidden_layers"), fields.size("sliding_window", 128)
    alternating = ["full_attention" if layer % 2 else "sliding_attention" for layer in range(layers)]
    windows = typed_windows(fields.under(layer_types=alternating), layers, window)
    if not fields.get("rope_scaling") and not fields.get("rope_parameters"):
        fields = fields.over(rope_scaling=_YARN)
    base = read_decoder(
        fields,
        Defaults(
            head_dim=64,
            num_key_value_heads=8,
            max_position_embeddings=131072,
            rms_norm_eps=1e-5,
            rope_theta=150000.0,
        ),
        attention_bias=fields.flag("attention_bias", True),
        windows=windows,
    )
    count, top_k = read_experts(fields, "num_local_experts", "num_experts", chosen=4)
    return GptOssConfig(
        **vars(base),
        num_local_experts=count,
        num_experts_per_tok=top_k,
        swiglu_limit=fields.number("swiglu_limit", 7.0),
        swiglu_alpha=fields.number("swiglu_alpha", 1.702),
        experts_apart=fields.flag("experts_apart"),
    )
