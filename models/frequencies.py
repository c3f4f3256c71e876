"""Rotary frequencies by kind, `rope_type` in config.json, as in transformers' modeling_rope_utils.

Frequencies are computed in float32 step by step as there, since a difference in the last bit grows with the position.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ellm.models.fields import Fields

_ONE = np.float32(1.0)


@dataclass(frozen=True)
class Parameters:
    """What a kind computes its frequencies of; `fields` has those that it alone knows.

    `original` is the positions of training, which `factor` makes more; `dim` dims of `head_dim` are rotated.
    """

    fields: Fields
    theta: float
    head_dim: int
    dim: int
    original: int
    max_position: int

    def factor(self, default: float | None = None) -> float:
        """By how much positions are scaled. Raises InputError if it is missing and there is no default."""
        return self.fields.number("factor", default)

    def ratio(self) -> float:
        """`factor`, by default that of max_position_embeddings and those of training."""
        return self.factor(self.max_position / self.original)


Frequencies = tuple[np.ndarray, float]
"""float32 [dim / 2], radians a position, and the factor on cos and sin."""


@dataclass(frozen=True)
class Kind:
    """One rope_type.

    `frequencies` are those of sequences within the positions of training; `longer`, if it differs, those for a context
    of so many, which `differs` for each. `extends`: whether `factor` times the positions of training is how long
    sequences may be.
    """

    frequencies: Callable[[Parameters], Frequencies]
    longer: Callable[[Parameters, int], Frequencies] | None = None
    differs: bool = False
    extends: bool = True
    trained: str = "original_max_position_embeddings"
    """The field that says the positions of training."""


def _powers(theta: float, numbers: int, dim: int) -> np.ndarray:
    """theta^(2i / dim) for i in 0 .. numbers - 1: of float32 theta and exponents, rounded once to float32."""
    exponents = np.arange(0, 2 * numbers, 2, dtype=np.float32) / np.float32(dim)
    return np.power(float(np.float32(theta)), exponents.astype(np.float64)).astype(np.float32)


def _plain(parameters: Parameters) -> np.ndarray:
    return _ONE / _powers(parameters.theta, parameters.dim // 2, parameters.dim)


def _default(parameters: Parameters) -> Frequencies:
    return _plain(parameters), 1.0


def _linear(parameters: Parameters) -> Frequencies:
    return _plain(parameters) / np.float32(parameters.factor()), 1.0


def _dynamic(parameters: Parameters, context: int) -> Frequencies:
    """Dynamic NTK: a larger theta for longer sequences, here that of the longest."""
    dim, factor = parameters.dim, parameters.factor()
    if dim < 4:
        raise parameters.fields.error("rope_type", f"needs more than the {dim} dims that are rotated")
    scale = (factor * context / parameters.original - (factor - 1)) ** (dim / (dim - 2))
    return _ONE / _powers(parameters.theta * scale, dim // 2, dim), 1.0


def _proportional(parameters: Parameters) -> Frequencies:
    """The first pairs alone, of all pairs of a head, are rotated, by the frequencies that they have in a whole one."""
    rotated, pairs = parameters.dim // 2, parameters.head_dim // 2
    inverse = np.zeros(pairs, np.float32)
    inverse[:rotated] = _ONE / _powers(parameters.theta, rotated, parameters.head_dim)
    return inverse / np.float32(parameters.factor(1.0)), 1.0


def _longrope(name: str) -> Callable[..., Frequencies]:
    """LongRoPE (Ding et al. 2024): each frequency has a divisor of its own."""

    def frequencies(parameters: Parameters, context: int = 0) -> Frequencies:
        dim, original, factor = parameters.dim, parameters.original, parameters.ratio()
        divisors = np.array(parameters.fields.numbers(name, dim // 2), np.float32)
        suggested = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
        magnitude = parameters.fields.number("attention_factor", suggested)
        return _ONE / (divisors * _powers(parameters.theta, dim // 2, dim)), magnitude

    return frequencies


def _llama3(parameters: Parameters) -> Frequencies:
    """Llama 3.1: long wavelengths divided by `factor`, short ones kept, a smooth passage between."""
    fields, original = parameters.fields, float(parameters.original)
    frequencies, factor = _plain(parameters), np.float32(parameters.factor())
    low, high = fields.number("low_freq_factor"), fields.number("high_freq_factor")
    if high == low:
        raise fields.error("low_freq_factor", f"equals high_freq_factor {high}")
    wavelengths = np.float32(2 * math.pi) / frequencies
    scaled = np.where(wavelengths > original / low, frequencies / factor, frequencies)
    smooth = (np.float32(original) / wavelengths - np.float32(low)) / np.float32(high - low)
    passage = (_ONE - smooth) * scaled / factor + smooth * scaled
    between = (wavelengths >= original / high) & (wavelengths <= original / low)
    return np.where(between, passage, scaled), 1.0


def _yarn(parameters: Parameters) -> Frequencies:
    """YaRN (Peng et al. 2023): a ramp over dims from extrapolation to interpolation, and a factor on cos and sin."""
    fields, dim, factor = parameters.fields, parameters.dim, parameters.ratio()

    def dim_of(rotations: float) -> float:
        turns = math.log(parameters.original / (rotations * 2 * math.pi))
        return dim * turns / (2 * math.log(parameters.theta))

    low, high = dim_of(fields.number("beta_fast", 32)), dim_of(fields.number("beta_slow", 1))
    if fields.flag("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    powers = _powers(parameters.theta, dim // 2, dim)
    extrapolated = _ONE - ramp.astype(np.float32)
    inverse = _ONE / (np.float32(factor) * powers) * (_ONE - extrapolated) + _ONE / powers * extrapolated
    return inverse, fields.number("attention_factor", _yarn_magnitude(fields, factor))


def _yarn_magnitude(fields: Fields, factor: float) -> float:
    mscale, all_dim = fields.get("mscale"), fields.get("mscale_all_dim")
    if mscale and all_dim:
        return yarn_mscale(factor, fields.number("mscale")) / yarn_mscale(factor, fields.number("mscale_all_dim"))
    return yarn_mscale(factor, 1.0)


def yarn_mscale(factor: float, mscale: float) -> float:
    """YaRN's 0.1 mscale ln(factor) + 1, by which attention is made sharper."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


KINDS: dict[str, Kind] = {
    "default": Kind(_default, extends=False),
    "linear": Kind(_linear),
    "dynamic": Kind(_default, _dynamic, differs=True, trained="max_position_embeddings"),
    "yarn": Kind(_yarn),
    "longrope": Kind(_longrope("short_factor"), _longrope("long_factor"), extends=False),
    "llama3": Kind(_llama3, extends=False),
    "proportional": Kind(_proportional),
}
ALIASES = {"mrope": "default", "su": "longrope"}
"""Older names; mrope's sections differ for images alone."""
