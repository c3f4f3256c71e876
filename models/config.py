"""Reads config.json strictly: what is missing, of the wrong type or out of range is one line naming field and value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ellm.dsl import Rope
from ellm.models.rope import positive, rope_from
from ellm.system.errors import InputError

_MOST = {  # far beyond any model: a damaged file must not cost memory or time without bound
    "vocab_size": 1 << 24,
    "max_position_embeddings": 1 << 24,
    "sliding_window": 1 << 24,
    "moe_intermediate_size": 1 << 16,
    "n_shared_experts": 1 << 6,
}
_MOST |= dict.fromkeys(("head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 1 << 12)
_MOST |= dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_key_value_heads"), 1 << 12)
_MOST |= dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 1 << 12)
_MOST_WIDTH = 1 << 20  # of everything else
_MOST_EXPERTS = 1 << 18  # of all layers together


class Fields:
    """The fields of a config.json."""

    def __init__(self, config: Mapping[str, Any]):
        self.config = config

    def error(self, name: str, problem: str) -> InputError:
        """Make the error for a field; the caller raises it."""
        return InputError(f"config.json: {name}: {self.config.get(name)!r} {problem}")

    def named(self, *names: str) -> str:
        """Return the one of a field's names that the config uses, the first if none."""
        return next((name for name in names if self.config.get(name) is not None), names[0])

    def size(self, name: str, default: int | None = None) -> int:
        """Return a positive int; null or absent is the default. Raises InputError."""
        value = self.config.get(name)
        if value is None and default is not None:
            return default
        if name not in self.config:
            raise InputError(f"config.json: {name}: missing")
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise self.error(name, "is not a positive int")
        most = _MOST.get(name, _MOST_WIDTH)
        if value > most:
            raise self.error(name, f"is more than {most}")
        return value

    def number(self, name: str, default: float) -> float:
        """Return a positive number. Raises InputError."""
        return positive(name, self.config.get(name, default))

    def count(self, name: str, default: int) -> int:
        """Return an int that may be 0; null or absent is the default. Raises InputError."""
        return self.size(name, default) if self.config.get(name) != 0 or self.config.get(name) is False else 0

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a bool. Raises InputError."""
        value = self.config.get(name, default)
        if not isinstance(value, bool):
            raise self.error(name, "is not true or false")
        return value


@dataclass(frozen=True)
class DecoderConfig:
    """What every decoder here has, with config.json's names. `rope` stands for all of its rope fields.

    `windows` has one number a layer: how many keys a row sees, itself included; 0 = all.
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
    rope: Rope
    windows: tuple[int, ...]


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
    config: Mapping[str, Any],
    defaults: Defaults,
    *,
    attention_bias: bool,
    mlp_bias: bool = False,
    windows: tuple[int, ...],
) -> DecoderConfig:
    """Read and check the fields that all families share. Raises InputError."""
    fields = Fields(config)
    heads = fields.size("num_attention_heads")
    absent = defaults.num_key_value_heads or heads
    kv_heads = fields.size("num_key_value_heads", heads if "num_key_value_heads" in config else absent)
    hidden = fields.size("hidden_size")
    if heads % kv_heads:
        raise InputError(f"config.json: num_attention_heads: {heads} is no multiple of num_key_value_heads {kv_heads}")
    if config.get("head_dim") is None and defaults.head_dim is None and hidden % heads:
        raise InputError(f"config.json: hidden_size: {hidden} is no multiple of num_attention_heads {heads}")
    head_dim = fields.size("head_dim", defaults.head_dim or hidden // heads)
    if head_dim % 2:
        raise InputError(f"config.json: head_dim: {head_dim} is odd, rope needs pairs")
    if config.get("hidden_act", "silu") != "silu":
        raise fields.error("hidden_act", "is not supported, only silu is")
    context = fields.size("max_position_embeddings", defaults.max_position_embeddings)
    return DecoderConfig(
        vocab_size=fields.size("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.size("intermediate_size"),
        num_hidden_layers=fields.size("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=context,
        rms_norm_eps=fields.number("rms_norm_eps", defaults.rms_norm_eps),
        tie_word_embeddings=fields.flag("tie_word_embeddings"),
        attention_bias=attention_bias,
        mlp_bias=mlp_bias,
        rope=rope_from(config, head_dim, context, defaults.rope_theta, defaults.partial_rotary_factor),
        windows=windows,
    )


def read_experts(config: Mapping[str, Any], *names: str, chosen: int | None = None) -> tuple[int, int]:
    """Return how many experts there are, a field of one of these names, and how many a row goes to (else `chosen`).

    Raises InputError.
    """
    fields = Fields(config)
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
    DeepSeek-V2 and V3. The first `first_k_dense_replace` layers have none; n_group is 0 if all experts are eligible."""

    n_routed_experts: int
    num_experts_per_tok: int
    n_group: int
    topk_group: int
    n_shared_experts: int
    moe_intermediate_size: int
    first_k_dense_replace: int
    routed_scaling_factor: float
    norm_topk_prob: bool


def read_shared_experts(
    config: Mapping[str, Any], base: DecoderConfig, *, group_top: int, **defaults: Any
) -> SharedExpertsConfig:
    """Read and check the fields of SharedExpertsConfig; `defaults` are the family's. Raises InputError.

    `group_top` is how many of a group's scores are summed to choose among groups, 0 if all experts are eligible.
    """
    fields = Fields({**defaults, **{name: value for name, value in config.items() if value is not None}})
    count, top_k = read_experts(fields.config, "n_routed_experts", "num_local_experts")
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
    )


def used_window(config: Mapping[str, Any]) -> int:
    """Return `sliding_window` if `use_sliding_window`, else 0. Raises InputError."""
    fields = Fields(config)
    used = fields.flag("use_sliding_window") and config.get("sliding_window", 4096) is not None
    return fields.size("sliding_window", 4096) if used else 0


def layer_windows(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the window of each layer: by layer_types, or by max_window_layers. Raises InputError."""
    fields, window = Fields(config), used_window(config)
    layers = fields.size("num_hidden_layers")
    first = config.get("max_window_layers", 28)
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:
        raise fields.error("max_window_layers", "is not a number of layers")
    if config.get("layer_types") is None:
        return tuple(window if layer >= first else 0 for layer in range(layers))
    return typed_windows(config, layers, window)


def typed_windows(config: Mapping[str, Any], layers: int, window: int) -> tuple[int, ...]:
    """Return the window of each layer by `layer_types`. Raises InputError."""
    types = config.get("layer_types")
    if not isinstance(types, list) or len(types) != layers:
        raise Fields(config).error("layer_types", f"is not a list of {layers} layers")
    for name in types:
        if name not in ("full_attention", "sliding_attention"):
            raise InputError(f"config.json: layer_types: {name!r} is not full_attention or sliding_attention")
        if name == "sliding_attention" and not window:
            raise InputError("config.json: layer_types: 'sliding_attention' without a sliding_window in use")
    return tuple(window if name == "sliding_attention" else 0 for name in types)
