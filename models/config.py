"""The parts of config.json that families share, and what a family assumes where it is silent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ellm.dsl import Rope
from ellm.models.fields import Fields
from ellm.models.rope import Rotary, read_rope
from ellm.system.errors import InputError

_MOST_EXPERTS = 1 << 18  # of all layers together
_SILU = ("silu", "swish")
WITHOUT_EFFECT = frozenset(
    (
        *("_name_or_path", "auto_map", "transformers_version", "use_cache", "return_dict", "is_encoder_decoder"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "id2label", "label2id", "task_specific_params"),
        *("chunk_size_feed_forward", "problem_type", "pooling"),
        *("experts_per_token", "initial_context_length", "qk_head_dim"),  # say again what others say
        *("attention_dropout", "initializer_range", "pretraining_tp", "ep_size", "num_nextn_predict_layers"),
        *("aux_loss_alpha", "seq_aux", "router_aux_loss_coef", "router_jitter_noise"),
        *("output_attentions", "output_hidden_states", "output_router_logits"),
    )
)
"""Fields that say nothing about logits: for training, for libraries, or read by others."""


@dataclass(frozen=True)
class DecoderConfig:
    """What every decoder here has, with config.json's names. `rotary`, one a layer, stands for all of its rope fields.

    `windows` has one number a layer: how many keys a row sees, itself included; 0 = all. `context` is how long
    sequences may be, which rope may depend on; 0 = as long as those of training.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    rotary: tuple[Rotary, ...]
    windows: tuple[int, ...]
    context: int

    def rope(self, layer: int) -> Rope:
        """The rotation of a layer."""
        return self.rotary[layer].at(self.context)


@dataclass(frozen=True)
class Defaults:
    """What a family assumes where config.json is silent; the values of transformers' config classes.

    `partial_rotary_factor` is None if the family rotates whole heads, whatever config.json says; another is refused.
    """

    head_dim: int | None = None  # None: hidden_size / num_attention_heads
    num_key_value_heads: int | None = None  # None: num_attention_heads
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    partial_rotary_factor: float | None = None


def read_decoder(
    fields: Fields,
    defaults: Defaults,
    *,
    attention_bias: bool,
    mlp_bias: bool = False,
    windows: tuple[int, ...],
) -> DecoderConfig:
    """Read and check the fields that all families share. Raises InputError."""
    heads = fields.size("num_attention_heads")
    absent = defaults.num_key_value_heads or heads
    kv_heads = fields.size("num_key_value_heads", heads if fields.is_null("num_key_value_heads") else absent)
    hidden = fields.size("hidden_size")
    if heads % kv_heads:
        raise InputError(f"config.json: num_attention_heads: {heads} is no multiple of num_key_value_heads {kv_heads}")
    if fields.get("head_dim") is None and defaults.head_dim is None and hidden % heads:
        raise InputError(f"config.json: hidden_size: {hidden} is no multiple of num_attention_heads {heads}")
    head_dim = fields.size("head_dim", defaults.head_dim or hidden // heads)
    if head_dim % 2:
        raise InputError(f"config.json: head_dim: {head_dim} is odd, rope needs pairs")
    fields.require("hidden_act", *_SILU)
    fields.require("is_causal", True)
    positions = fields.size("max_position_embeddings", defaults.max_position_embeddings)
    return DecoderConfig(
        vocab_size=fields.size("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.size("intermediate_size"),
        num_hidden_layers=fields.size("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=positions,
        rms_norm_eps=fields.number("rms_norm_eps", defaults.rms_norm_eps),
        tie_word_embeddings=fields.flag("tie_word_embeddings"),
        attention_bias=attention_bias,
        mlp_bias=mlp_bias,
        rotary=read_rope(
            fields,
            head_dim=head_dim,
            max_position=positions,
            default_theta=defaults.rope_theta,
            default_part=defaults.partial_rotary_factor,
            windows=windows,
        ),
        windows=windows,
        context=0,
    )


def read_experts(fields: Fields, *names: str, chosen: int | None = None) -> tuple[int, int]:
    """Return how many experts there are, a field of one of these names, and how many a row goes to (else `chosen`).

    Raises InputError.
    """
    name = fields.named(*names)
    experts, top_k = fields.size(name), fields.size("num_experts_per_tok", chosen)
    if top_k > experts:
        raise InputError(f"config.json: num_experts_per_tok: {top_k} is more than the {experts} of {name}")
    layers = fields.size("num_hidden_layers")
    if layers * experts > _MOST_EXPERTS:
        raise fields.error(name, f"in each of {layers} layers are more than {_MOST_EXPERTS} in all")
    return experts, top_k


@dataclass(frozen=True)
class SharedExpertsConfig(DecoderConfig):
    """As config.json of families has it that have experts which every row goes to beside those that it is routed to, as
    DeepSeek-V2 and V3. The first `first_k_dense_replace` layers have none; n_group is 0 if all experts are eligible.
    `num_nextn_predict_layers` layers behind the others predict the token after the next (drafter.py)."""

    n_routed_experts: int
    num_experts_per_tok: int
    n_group: int
    topk_group: int
    n_shared_experts: int
    moe_intermediate_size: int
    first_k_dense_replace: int
    routed_scaling_factor: float
    norm_topk_prob: bool
    num_nextn_predict_layers: int


def read_shared_experts(fields: Fields, base: DecoderConfig, *, group_top: int, **defaults: Any) -> SharedExpertsConfig:
    """Read and check the fields of SharedExpertsConfig; `defaults` are the family's. Raises InputError.

    `group_top` is how many of a group's scores are summed to choose among groups, 0 if all experts are eligible.
    """
    fields = fields.under(**defaults)
    count, top_k = read_experts(fields, "n_routed_experts", "num_local_experts")
    groups, keep = (fields.size("n_group"), fields.size("topk_group")) if group_top else (0, 0)
    if groups and count % groups:
        raise fields.error("n_group", f"does not divide n_routed_experts {count}")
    if keep > groups:
        raise fields.error("topk_group", f"is more than n_group {groups}")
    if groups and top_k > keep * (count // groups):
        eligible = f"the {keep * (count // groups)} experts of topk_group {keep} groups"
        raise fields.error("num_experts_per_tok", f"is more than {eligible}")
    if groups and count // groups < group_top:
        size = f"groups of {count // groups} of n_routed_experts {count}"
        raise fields.error("n_group", f"leaves {size}, {group_top} are summed")
    return SharedExpertsConfig(
        **vars(base),
        n_routed_experts=count,
        num_experts_per_tok=top_k,
        n_group=groups,
        topk_group=keep,
        n_shared_experts=fields.size("n_shared_experts"),
        moe_intermediate_size=fields.size("moe_intermediate_size"),
        first_k_dense_replace=fields.count("first_k_dense_replace", 0),
        routed_scaling_factor=fields.number("routed_scaling_factor", 1.0),
        norm_topk_prob=fields.flag("norm_topk_prob"),
        num_nextn_predict_layers=fields.count("num_nextn_predict_layers", 0),
    )


def used_window(fields: Fields) -> int:
    """Return `sliding_window` if `use_sliding_window`, else 0. Raises InputError."""
    used = fields.flag("use_sliding_window") and not fields.is_null("sliding_window")
    return fields.size("sliding_window", 4096) if used else 0


def layer_windows(fields: Fields) -> tuple[int, ...]:
    """Return the window of each layer: by layer_types, or by max_window_layers. Raises InputError."""
    window, layers = used_window(fields), fields.size("num_hidden_layers")
    first = fields.count("max_window_layers", 28)
    if fields.get("layer_types") is None:
        return tuple(window if layer >= first else 0 for layer in range(layers))
    return typed_windows(fields, layers, window)


def typed_windows(fields: Fields, layers: int, window: int) -> tuple[int, ...]:
    """Return the window of each layer by `layer_types`. Raises InputError."""
    types = fields.get("layer_types")
    if not isinstance(types, list) or len(types) != layers:
        raise fields.error("layer_types", f"is not a list of {layers} layers")
    for name in types:
        if name not in ("full_attention", "sliding_attention"):
            raise InputError(f"config.json: layer_types: {name!r} is not full_attention or sliding_attention")
        if name == "sliding_attention" and not window:
            raise InputError("config.json: layer_types: 'sliding_attention' without a sliding_window in use")
    return tuple(window if name == "sliding_attention" else 0 for name in types)
