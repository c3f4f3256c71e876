"""Qwen3-MoE: Qwen3's attention, one window for all layers; in sparse layers a row goes to a few of many experts."""

from __future__ import annotations

from dataclasses import dataclass

from ellm.dsl import Cache, Value, Weights, experts, linear, rms_norm, route, softmax
from ellm.models.config import DecoderConfig, Defaults, read_decoder, read_experts, used_window
from ellm.models.fields import Fields
from ellm.models.layers import mlp
from ellm.models.qwen3 import qwen3_attention


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
    d = c.hidden_size
    x = qwen3_attention(x, w, cache, c, layer)
    m = rms_norm(x, w.post_attention_layernorm[d], c.rms_norm_eps)
    if not c.sparse[layer]:
        return x + mlp(m, w.mlp, d, c.intermediate_size)
    scores = softmax(linear(m, w.mlp.gate[c.num_experts, d]))
    routes = route(scores, c.num_experts_per_tok, normalize=c.norm_topk_prob)
    return x + experts(routes, m, lambda rows, e: mlp(rows, w.mlp.experts[e], d, c.moe_intermediate_size))


def read_qwen3_moe(fields: Fields) -> Qwen3MoeConfig:
    """Read the config of a Qwen3MoeForCausalLM. Raises InputError."""
    fields.get("max_window_layers")  # has no effect: all layers are alike
    base = read_decoder(
        fields,
        Defaults(num_key_value_heads=4),
        attention_bias=fields.flag("attention_bias"),
        windows=(used_window(fields),) * fields.size("num_hidden_layers"),
    )
    count, top_k = read_experts(fields, "num_experts", "num_local_experts", chosen=8)
    return Qwen3MoeConfig(
        **vars(base),
        num_experts=count,
        num_experts_per_tok=top_k,
        moe_intermediate_size=fields.size("moe_intermediate_size", 768),
        norm_topk_prob=fields.flag("norm_topk_prob"),
        sparse=_sparse_layers(fields, base.num_hidden_layers),
    )


def _sparse_layers(fields: Fields, layers: int) -> tuple[bool, ...]:
    """Every `decoder_sparse_step`-th layer, without `mlp_only_layers`."""
    dense = fields.get("mlp_only_layers", [])
    if not isinstance(dense, list) or not all(isinstance(layer, int) for layer in dense):
        raise fields.error("mlp_only_layers", "is not a list of layers")
    step = fields.size("decoder_sparse_step", 1)
    return tuple((layer + 1) % step == 0 and layer not in dense for layer in range(layers))
