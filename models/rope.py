"""Rotary frequencies from config.json: default, linear, llama3 and yarn, as in transformers' modeling_rope_utils.

Frequencies are computed in float32 step by step as there, since a difference in the last bit grows with the position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ellm.dsl import Rope
from ellm.system.errors import InputError

_ONE = np.float32(1.0)
_LEAST, _MOST = 1e-15, 1e15


def rope_from(
    config: Mapping[str, Any], head_dim: int, max_position: int, default_theta: float, default_part: float | None = None
) -> Rope:
    """Return the rotary frequencies of a config. Raises InputError naming the field.

    The config is in its old form (`rope_theta`, `rope_scaling`) or that of transformers 5 (`rope_parameters`). A
    family with a `default_part` rotates the first int(head_dim * partial_rotary_factor) dims of a head alone.
    """
    parameters, kind = _parameters(config, default_theta)
    part = parameters.values.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    frequencies, factor = _KINDS[kind](parameters, _rotary_dim(part, head_dim, default_part), max_position)
    return Rope(tuple(float(number) for number in frequencies.astype(np.float32)), float(factor))


def _rotary_dim(part: Any, head_dim: int, default: float | None) -> int:
    part = (default or 1) if part is None else part
    if default is None and part != 1:
        raise InputError(f"config.json: partial_rotary_factor: {part!r} is not supported, only 1 is")
    if positive("partial_rotary_factor", part) > 1:
        raise InputError(f"config.json: partial_rotary_factor: {part!r} is more than 1")
    rotary = int(head_dim * part)
    if rotary < 2 or rotary % 2:
        raise InputError(f"config.json: partial_rotary_factor: {part!r} of {head_dim} dims is no number of pairs")
    return rotary


def score_factor(config: Mapping[str, Any]) -> float:
    """Return what YaRN multiplies attention scores with where `mscale_all_dim` is given, as DeepSeek's models have it.

    Raises InputError.
    """
    parameters, kind = _parameters(config, 1.0)
    if kind == "default" or not parameters.values.get("mscale_all_dim"):
        return 1.0
    return _mscale(parameters.number("factor"), parameters.number("mscale_all_dim")) ** 2


def _parameters(config: Mapping[str, Any], default_theta: float) -> tuple[_Parameters, str]:
    field = "rope_parameters" if config.get("rope_parameters") is not None else "rope_scaling"
    given = {} if config.get(field) is None else config[field]
    if not isinstance(given, Mapping):
        raise InputError(f"config.json: {field}: {given!r} is not an object")
    kind = given.get("rope_type") or given.get("type") or "default"
    if not isinstance(kind, str) or kind not in _KINDS:
        raise InputError(f"config.json: {field}: rope_type {kind!r} is not supported, only {', '.join(_KINDS)} are")
    return _Parameters(field, given, config.get("rope_theta"), default_theta), kind


class _Parameters:
    def __init__(self, field: str, values: Mapping[str, Any], theta: Any, default_theta: float):
        self.field, self.values, self._theta, self._default_theta = field, values, theta, default_theta

    def theta(self) -> float:
        if self.values.get("rope_theta") is not None or self._theta is None:
            value = self.number("rope_theta", self._default_theta)
        else:
            value = positive("rope_theta", self._theta)
        if value <= 1:
            raise InputError(f"config.json: rope_theta: {value!r} is not more than 1")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.values.get(name)
        if value is None:
            value = default
        if value is None:
            raise InputError(f"config.json: {self.field}: {name} is missing")
        return positive(f"{self.field}: {name}", value)


def positive(name: str, value: Any) -> float:
    """Return a number of a config that is far from where float32 ends. Raises InputError naming the field."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise InputError(f"config.json: {name}: {value!r} is not a positive number")
    if not _LEAST <= value <= _MOST:
        raise InputError(f"config.json: {name}: {value!r} is not from {_LEAST} to {_MOST}")
    return float(value)


Frequencies = tuple[np.ndarray, float]


def _powers(parameters: _Parameters, dim: int) -> np.ndarray:
    """theta^(2i / dim) for i in 0 .. dim / 2 - 1: of float32 exponents, rounded once to float32."""
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return np.power(float(parameters.theta()), exponents.astype(np.float64)).astype(np.float32)


def _default(parameters: _Parameters, dim: int, max_position: int) -> Frequencies:
    return _ONE / _powers(parameters, dim), 1.0


def _linear(parameters: _Parameters, dim: int, max_position: int) -> Frequencies:
    return _ONE / _powers(parameters, dim) / np.float32(parameters.number("factor")), 1.0


def _llama3(parameters: _Parameters, dim: int, max_position: int) -> Frequencies:
    """Llama 3.1: long wavelengths divided by `factor`, short ones kept, a smooth passage between."""
    frequencies = _ONE / _powers(parameters, dim)
    factor = np.float32(parameters.number("factor"))
    low, high = parameters.number("low_freq_factor"), parameters.number("high_freq_factor")
    original = parameters.number("original_max_position_embeddings")
    if high == low:
        raise InputError(f"config.json: {parameters.field}: low_freq_factor {low} equals high_freq_factor {high}")
    wavelengths = np.float32(2 * math.pi) / frequencies
    scaled = np.where(wavelengths > original / low, frequencies / factor, frequencies)
    smooth = (np.float32(original) / wavelengths - np.float32(low)) / np.float32(high - low)
    passage = (_ONE - smooth) * scaled / factor + smooth * scaled
    between = (wavelengths >= original / high) & (wavelengths <= original / low)
    return np.where(between, passage, scaled), 1.0


def _yarn(parameters: _Parameters, dim: int, max_position: int) -> Frequencies:
    """YaRN (Peng et al. 2023): a ramp over dims from extrapolation to interpolation, and a factor on cos and sin."""
    original = parameters.number("original_max_position_embeddings", max_position)
    factor = parameters.number("factor", max_position / original)
    theta = parameters.theta()

    def dim_of(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = dim_of(parameters.number("beta_fast", 32))
    high = dim_of(parameters.number("beta_slow", 1))
    if parameters.values.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    powers = _powers(parameters, dim)
    extrapolated = _ONE - ramp.astype(np.float32)
    inverse = _ONE / (np.float32(factor) * powers) * (_ONE - extrapolated) + _ONE / powers * extrapolated
    return inverse, _yarn_factor(parameters, factor)


def _yarn_factor(parameters: _Parameters, factor: float) -> float:
    given = parameters.values.get("attention_factor")
    if given is not None:
        return parameters.number("attention_factor")
    mscale, all_dim = parameters.values.get("mscale"), parameters.values.get("mscale_all_dim")
    if mscale and all_dim:
        return _mscale(factor, parameters.number("mscale")) / _mscale(factor, parameters.number("mscale_all_dim"))
    return _mscale(factor, 1.0)


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


_KINDS: dict[str, Callable[[_Parameters, int, int], Frequencies]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
