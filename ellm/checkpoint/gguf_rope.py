"""Rotary embeddings from the metadata of a GGUF file, in the form of config.json.

What the keys mean is what llama.cpp does with them: src/llama-model.cpp (load_hparams), llama-context.cpp, and
ggml_rope_ext for YaRN, whose own factor on cos and sin it multiplies with `attn_factor`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ellm.checkpoint.gguf_fields import ModelFields
from ellm.checkpoint.gguf_file import GGUFTensor
from ellm.system.errors import InputError

_LLAMA3_SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_DIVISORS = "rope_freqs.weight"
_LONGROPE = {"long_factor": "rope_factors_long.weight", "short_factor": "rope_factors_short.weight"}
ROPE_TENSORS = {_DIVISORS, *_LONGROPE.values()}


def read_rope(fields: ModelFields, head_dim: int, context: int) -> dict[str, Any]:
    """`rope_theta`, `rope_scaling` and, if only a part of a head is rotated, `partial_rotary_factor`.

    Raises InputError if a field is broken or there is no form for it in config.json.
    """
    rotary = fields.size("rope.dimension_count", head_dim)
    if rotary > head_dim or rotary % 2:
        raise fields.error("rope.dimension_count", f"must be even and at most the head size {head_dim}")
    theta = fields.number("rope.freq_base", 10000.0)
    if not 0 < theta < math.inf:
        raise fields.error("rope.freq_base", "must be a positive number")
    rope: dict[str, Any] = {"rope_theta": theta, "rope_scaling": _scaling(fields, rotary, theta, context)}
    if rotary != head_dim:
        rope["partial_rotary_factor"] = rotary / head_dim
    return rope


def _scaling(fields: ModelFields, rotary: int, theta: float, context: int) -> dict[str, Any] | None:
    kind = fields.text("rope.scaling.type", "linear")  # what a factor without a type means
    factor = _factor(fields, typed=fields.key("rope.scaling.type") in fields.file.metadata)
    magnitude = fields.number("rope.scaling.attn_factor", 1.0)
    if _DIVISORS in fields.file.tensors:
        if kind not in ("none", "linear") or (kind == "linear" and factor != 1.0) or magnitude != 1.0:
            raise InputError(
                f"{fields.file.path}: {_DIVISORS} is there together with rope scaling {kind} by {factor:g}, "
                "ellm computes only one of them"
            )
        return _llama3(fields, rotary, theta)
    if kind == "yarn":
        return _yarn(fields, factor, magnitude, context)
    if kind == "longrope":
        return _longrope(fields, rotary, magnitude, context)
    if kind not in ("none", "linear"):
        raise fields.error("rope.scaling.type", "ellm has none, linear, yarn, longrope")
    if magnitude != 1.0:
        raise fields.error("rope.scaling.attn_factor", f"must be 1 with scaling {kind}")
    return None if kind == "none" or factor == 1.0 else {"rope_type": "linear", "factor": factor}


def _factor(fields: ModelFields, typed: bool) -> float:
    """How many times positions are stretched; 0 is not set, and `scale_linear` the key's old name."""
    default = None if typed and fields.text("rope.scaling.type", "") in ("linear", "yarn") else 0.0
    old = fields.number("rope.scale_linear", 0.0)
    factor = fields.number("rope.scaling.factor", old or default)
    if factor < 0 or not math.isfinite(factor):
        raise fields.error("rope.scaling.factor", "must be a positive number")
    return factor or 1.0


def _yarn(fields: ModelFields, factor: float, magnitude: float, context: int) -> dict[str, Any]:
    scaling: dict[str, Any] = {"rope_type": "yarn", "factor": factor}
    scaling["original_max_position_embeddings"] = fields.size("rope.scaling.original_context_length", context)
    scaling["beta_fast"] = fields.number("rope.scaling.yarn_beta_fast", 32.0)
    scaling["beta_slow"] = fields.number("rope.scaling.yarn_beta_slow", 1.0)
    if magnitude != 1.0:
        scaling["attention_factor"] = magnitude * (0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0)
    return scaling


def _longrope(fields: ModelFields, rotary: int, magnitude: float, context: int) -> dict[str, Any]:
    scaling: dict[str, Any] = {"rope_type": "longrope", "attention_factor": magnitude}
    scaling["original_max_position_embeddings"] = fields.size("rope.scaling.original_context_length", context)
    return scaling | {name: _vector(fields, tensor, rotary).tolist() for name, tensor in _LONGROPE.items()}


def _llama3(fields: ModelFields, rotary: int, theta: float) -> dict[str, Any]:
    """llama3 scaling is stored as its divisors, one for each pair of dims: find the factor and check the rest."""
    stored = _vector(fields, _DIVISORS, rotary)
    factor = float(stored.max())
    wavelength = 2 * np.pi * theta ** (np.arange(0, rotary, 2) / rotary)
    low, high = _LLAMA3_SCALING["low_freq_factor"], _LLAMA3_SCALING["high_freq_factor"]
    smooth = np.clip((_LLAMA3_SCALING["original_max_position_embeddings"] / wavelength - low) / (high - low), 0, 1)
    with np.errstate(all="ignore"):
        divisors = 1 / ((1 - smooth) / factor + smooth)
    if not np.allclose(stored, divisors, rtol=1e-4):
        raise InputError(f"{fields.file.path}: {_DIVISORS} holds other divisors than llama3 scaling by {factor:g}")
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3_SCALING}


def _vector(fields: ModelFields, name: str, rotary: int) -> np.ndarray:
    """A number for each pair of dims that is rotated, float32."""
    tensor: GGUFTensor | None = fields.file.tensors.get(name)
    if tensor is None:
        raise InputError(f"{fields.file.path}: tensor {name} is missing")
    if tensor.shape != (rotary // 2,) or tensor.dtype != "F32":
        raise InputError(f"{tensor.path}: {name} is {tensor.dtype} {list(tensor.shape)}, must be F32 [{rotary // 2}]")
    return np.fromfile(tensor.path, "<f4", rotary // 2, offset=tensor.offset)
