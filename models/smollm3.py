"""SmolLM3: Llama without rope in some layers, by default every fourth (Yang et al. 2025, NoPE)."""

from __future__ import annotations

from dataclasses import dataclass

from ellm.dsl import Cache, Value, Weights, attend, linear, rms_norm, rope
from ellm.models.config import DecoderConfig, Defaults, read_decoder, typed_windows
from ellm.models.fields import Fields
from ellm.models.layers import mlp


@dataclass(frozen=True)
class SmolLM3Config(DecoderConfig):
    """As config.json has it; `rotated` has one flag a layer: whether q and k get rope."""

    rotated: tuple[bool, ...]


def smollm3_block(x: Value, w: Weights, cache: Cache, c: SmolLM3Config, layer: int) -> Value:
    """One layer: x [T, hidden] gives [T, hidden]."""
    d, h, g, k, eps = c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim, c.rms_norm_eps
    a = rms_norm(x, w.input_layernorm[d], eps)
    query = linear(a, w.self_attn.q_proj[h, k, d], bias=c.attention_bias)
    key = linear(a, w.self_attn.k_proj[g, k, d], bias=c.attention_bias)
    value = linear(a, w.self_attn.v_proj[g, k, d], bias=c.attention_bias)
    if c.rotated[layer]:
        query, key = rope(query, c.rope(layer)), rope(key, c.rope(layer))
    kv = cache.append(k=key, v=value)
    o = attend(query, kv["k"], kv["v"], scale=k**-0.5, window=c.windows[layer])
    x = x + linear(o, w.self_attn.o_proj[d, h, k], bias=c.attention_bias)
    m = rms_norm(x, w.post_attention_layernorm[d], eps)
    return x + mlp(m, w.mlp, d, c.intermediate_size, bias=c.mlp_bias)


def read_smollm3(fields: Fields) -> SmolLM3Config:
    """Read the config of a SmolLM3ForCausalLM. Raises InputError."""
    fields = fields.under(tie_word_embeddings=True)
    rotated = _rotated_layers(fields)
    used = fields.flag("use_sliding_window") and fields.get("sliding_window") is not None
    window = fields.size("sliding_window") if used else 0
    if fields.get("layer_types") is not None:
        windows = typed_windows(fields, len(rotated), window)
    else:
        windows = tuple(0 if rope else window for rope in rotated)
    base = read_decoder(
        fields,
        Defaults(num_key_value_heads=4, rope_theta=2000000.0),
        attention_bias=fields.flag("attention_bias"),
        mlp_bias=fields.flag("mlp_bias"),
        windows=windows,
    )
    return SmolLM3Config(**vars(base), rotated=rotated)


def _rotated_layers(fields: Fields) -> tuple[bool, ...]:
    """By `no_rope_layers`, where 1 means with rope, or all but every `no_rope_layer_interval`-th."""
    layers, flags = fields.size("num_hidden_layers"), fields.get("no_rope_layers")
    interval = fields.size("no_rope_layer_interval", 4)
    if flags is None:
        return tuple((layer + 1) % interval != 0 for layer in range(layers))
    if not isinstance(flags, list) or len(flags) != layers or any(flag not in (0, 1) for flag in flags):
        raise fields.error("no_rope_layers", f"is not a list of {layers} zeros and ones")
    return tuple(flag == 1 for flag in flags)
