"""Rotary embedding from config.json, in its old form (`rope_theta`, `rope_scaling`) or that of transformers 5.

That has all in `rope_parameters`, one object, or one for each type of layer. A kind is in `frequencies.py`. How long a
sequence may be is decided as vLLM does (`_get_and_verify_max_len`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ellm.dsl import Rope
from ellm.models.fields import Fields
from ellm.models.frequencies import ALIASES, KINDS, Frequencies, Kind, Parameters, yarn_mscale

_MOST_POSITIONS = 1 << 24
_NEUTRAL = {  # what peers, or transformers in other families, compute with; not known here, so it must change nothing
    "alpha": None,
    "attn_factor": 1,
    "extrapolation_factor": 1,
    "llama_4_scaling_beta": 0,
    "long_mscale": None,
    "short_mscale": None,
    "xdrope_section": None,
}
_LAYER_TYPES = ("full_attention", "sliding_attention")
_FOR_IMAGES = ("mrope_section", "mrope_interleaved")  # the positions of a text are the same on all axes


@dataclass(frozen=True)
class Rotary:
    """The rotary embedding of a layer, whose frequencies may depend on how long sequences may be.

    Keys are stored rotated, so one context has the same frequencies from its first position to its last.
    """

    kind: str
    """rope_type."""
    trained: int
    """Positions of training; within these, `longer` or not, frequencies are those of training."""
    most: int
    """Positions that a sequence may have."""
    within: Rope
    longer: Callable[[int], Rope] | None
    differs: bool
    """Whether `longer` has other frequencies for each context, so that there is no usual one."""
    score_factor: float
    """What YaRN multiplies attention scores with where `mscale_all_dim` is given, in DeepSeek's models."""

    def at(self, context: int) -> Rope:
        """The rotation for sequences of at most `context` positions."""
        return self.within if self.longer is None or context <= self.trained else self.longer(context)


def read_rope(
    fields: Fields,
    *,
    head_dim: int,
    max_position: int,
    default_theta: float,
    default_part: float | None,
    windows: Sequence[int],
) -> tuple[Rotary, ...]:
    """Return the rotary embedding of each layer. Raises InputError naming the field.

    A family with a `default_part` rotates the first int(head_dim * partial_rotary_factor) dims of a head alone.
    `windows` tell the type of a layer where `layer_types` does not.
    """
    name = "rope_parameters" if fields.get("rope_parameters") is not None else "rope_scaling"
    given = fields.object(name)
    if name == "rope_parameters" and fields.get("rope_scaling", {}) not in ({}, fields.get(name)):
        raise fields.error("rope_scaling", f"stands beside another {name}")

    def one(rope: Fields) -> Rotary:
        return _read_one(fields, rope, head_dim, max_position, default_theta, default_part)

    if not given.objects() and not any(given.is_null(kind) for kind in _LAYER_TYPES):
        return (one(given),) * len(windows)
    types, read = _layer_types(fields, windows), {}
    for kind in dict.fromkeys(types):
        if given.get(kind) is None:
            raise given.error(kind, "is no rope for layers of this type")
        read[kind] = one(given.object(kind))
    return tuple(read[kind] for kind in types)


def _layer_types(fields: Fields, windows: Sequence[int]) -> list[str]:
    types = fields.get("layer_types")
    if types is None:
        return [_LAYER_TYPES[window > 0] for window in windows]
    if not isinstance(types, list) or len(types) != len(windows) or not all(isinstance(kind, str) for kind in types):
        raise fields.error("layer_types", f"is not a list of {len(windows)} layers")
    return types


def _read_one(
    fields: Fields, rope: Fields, head_dim: int, max_position: int, default_theta: float, default_part: float | None
) -> Rotary:
    name, kind = _kind(rope)
    positions = (
        fields if fields.get(kind.trained) is not None else rope
    )  # beside the rope, as Phi-3 has them, goes first
    original = positions.size(kind.trained, max_position)
    parameters = Parameters(
        rope, _theta(fields, rope, default_theta), head_dim, _rotary_dim(fields, rope, head_dim, default_part, name),
        original, max_position,
    )  # fmt: skip
    most = max(max_position, _extended(rope, original)) if kind.extends else max_position
    longer = None
    if kind.longer is not None and most > original:
        longer = _at(kind.longer, parameters)
        longer(most)  # what is wrong shows here
    within, score_factor = _rope(kind.frequencies(parameters)), _score_factor(parameters, name)
    for field, neutral in _NEUTRAL.items():
        rope.require(field, neutral)
    for field in _FOR_IMAGES:
        rope.get(field)
    return Rotary(name, original, most, within, longer, kind.differs, score_factor)


def _kind(rope: Fields) -> tuple[str, Kind]:
    older = rope.get("type", "default")
    name, field = rope.get("rope_type", older), "rope_type" if rope.get("rope_type") is not None else "type"
    name = ALIASES.get(name, name) if isinstance(name, str) else name
    if not isinstance(name, str) or name not in KINDS:
        raise rope.error(field, f"is not supported, only {', '.join([*KINDS, *ALIASES])} are")
    return name, KINDS[name]


def _extended(rope: Fields, original: int) -> int:
    """`factor` times the positions of training."""
    extended = int(original * rope.number("factor", 1.0))
    if extended > _MOST_POSITIONS:
        raise rope.error("factor", f"times {original} positions are more than {_MOST_POSITIONS}")
    return extended


def _theta(fields: Fields, rope: Fields, default: float) -> float:
    place = rope if rope.get("rope_theta") is not None else fields
    value = place.number("rope_theta", default)
    if value <= 1:
        raise place.error("rope_theta", "is not more than 1")
    return value


def _rotary_dim(fields: Fields, rope: Fields, head_dim: int, default: float | None, kind: str) -> int:
    """How many of a head's dims are rotated: `rotary_dim`, or a part of them."""
    place = rope if rope.get("partial_rotary_factor") is not None else fields
    if fields.get("rotary_dim") is not None:
        rotary = fields.size("rotary_dim")
        if rotary % 2 or rotary > head_dim:
            raise fields.error("rotary_dim", f"is no number of pairs of {head_dim} dims")
        return rotary
    part = place.number("partial_rotary_factor", default or 1.0)
    if default is None and kind != "proportional" and part != 1:
        raise place.error("partial_rotary_factor", "is not supported, only 1 is")
    if part > 1:
        raise place.error("partial_rotary_factor", "is more than 1")
    rotary = int(head_dim * part)
    if rotary < 2 or rotary % 2:
        raise place.error("partial_rotary_factor", f"of {head_dim} dims is no number of pairs")
    return rotary


def _score_factor(parameters: Parameters, kind: str) -> float:
    fields = parameters.fields
    if kind == "default" or not fields.get("mscale_all_dim"):
        return 1.0
    return yarn_mscale(parameters.ratio(), fields.number("mscale_all_dim")) ** 2


def _at(longer: Callable[[Parameters, int], Frequencies], parameters: Parameters) -> Callable[[int], Rope]:
    return lambda context: _rope(longer(parameters, context))


def _rope(found: Frequencies) -> Rope:
    frequencies, factor = found
    return Rope(tuple(float(number) for number in frequencies.astype(np.float32)), float(factor))
