"""Multi-head latent attention of DeepSeek-V2 and V3 (DeepSeek-AI 2024): one latent a position is its keys and values.

Keys and values are not expanded: the matrices that would do it are absorbed into the query and the output, for every
row alike, so that a row's result does not depend on how its sequence was cut into steps. Only a graph for prefill that
is asked for by name expands them, on the same cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ellm.dsl import Cache, Value, Weights, attend, concat, expand_latent, head_linear, linear, rms_norm, rope
from ellm.models.config import Defaults, SharedExpertsConfig, read_decoder, read_shared_experts
from ellm.models.fields import Fields

__composites__ = True  # an error in one begins with the line of the model that calls it


@dataclass(frozen=True)
class DeepseekConfig(SharedExpertsConfig):
    """As config.json has it; head_dim is qk_rope_head_dim. q_lora_rank is 0 if queries have no latent.

    With `kv_b_apart` (of GGUF files), what expands latents is two tensors, that of keys transposed head by head.
    """

    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    rope_interleave: bool
    kv_b_apart: bool
    expanded: bool = False  # not of config.json: attend to expanded keys and values


def latent_attention(x: Value, w: Weights, cache: Cache, c: DeepseekConfig, layer: int) -> Value:
    """Attention of normalised rows x [T, hidden], without residual: [T, hidden]."""
    d, h, r, eps, bias = c.hidden_size, c.num_attention_heads, c.kv_lora_rank, c.rms_norm_eps, c.attention_bias
    nope, rotary, v = c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim
    if c.q_lora_rank:
        latent = linear(x, w.q_a_proj[c.q_lora_rank, d], bias=bias)
        latent = rms_norm(latent, w.q_a_layernorm[c.q_lora_rank], eps)
        query = linear(latent, w.q_b_proj[h, nope + rotary, c.q_lora_rank])
    else:
        query = linear(x, w.q_proj[h, nope + rotary, d])
    to_keys, to_values = _from_latents(w, c)
    plain = query[..., :nope] if c.expanded else head_linear(query[..., :nope], to_keys.transposed)
    query = concat(plain, rope(query[..., nope:], c.rope(layer), interleaved=c.rope_interleave))
    joined = linear(x, w.kv_a_proj_with_mqa[1, r + rotary, d], bias=bias)
    latent = rms_norm(joined[..., :r], w.kv_a_layernorm[r], eps)
    key = concat(latent, rope(joined[..., r:], c.rope(layer), interleaved=c.rope_interleave))
    kv = cache.append(k=key, v=r)
    scale = (nope + rotary) ** -0.5 * c.rotary[layer].score_factor
    if c.expanded:
        kv = expand_latent(kv, to_keys, to_values)
    o = attend(query, kv["k"], kv["v"], scale=scale)
    o = o if c.expanded else head_linear(o, to_values)
    return linear(o, w.o_proj[d, h, v], bias=bias)


def _from_latents(w: Weights, c: DeepseekConfig) -> tuple[Weights, Weights]:
    """What makes keys [heads, nope, rank] and values [heads, v, rank] of latents."""
    h, r, nope, v = c.num_attention_heads, c.kv_lora_rank, c.qk_nope_head_dim, c.v_head_dim
    if c.kv_b_apart:
        return w.k_b_proj[h, r, nope].transposed, w.v_b_proj[h, v, r]
    to_keys, to_values = w.kv_b_proj[h, nope + v, r].split(nope, v, dim=1)
    return to_keys, to_values


def read_deepseek(fields: Fields, *, group_top: int, max_position_embeddings: int, **defaults: Any) -> DeepseekConfig:
    """Read the fields that DeepSeek-V2 and V3 share; the rest is what they differ in. Raises InputError."""
    rotary = fields.size("qk_rope_head_dim", 64)
    if rotary % 2:
        raise fields.error("qk_rope_head_dim", "is odd, rope needs pairs")
    base = read_decoder(
        fields.over(head_dim=rotary, num_key_value_heads=None),
        Defaults(max_position_embeddings=max_position_embeddings),
        attention_bias=fields.flag("attention_bias"),
        windows=(0,) * fields.size("num_hidden_layers"),
    )
    return DeepseekConfig(
        **vars(read_shared_experts(fields, base, group_top=group_top, **defaults)),
        q_lora_rank=fields.size("q_lora_rank", 1536) if not fields.is_null("q_lora_rank") else 0,
        kv_lora_rank=fields.size("kv_lora_rank", 512),
        qk_nope_head_dim=fields.size("qk_nope_head_dim", 128),
        qk_rope_head_dim=rotary,
        v_head_dim=fields.size("v_head_dim", 128),
        rope_interleave=fields.flag("rope_interleave", True),
        kv_b_apart=fields.flag("kv_b_apart"),
    )
