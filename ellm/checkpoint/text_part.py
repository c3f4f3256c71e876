"""The language model within a model that also sees or hears: its config.json, and its tensors as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ellm.checkpoint.tensors import TensorInfo

_PARTS = ("text_config", "llm_config")
_SHARED = ("dtype", "torch_dtype", "quantization_config", "tie_word_embeddings", "bos_token_id", "eos_token_id")
"""Fields that may stand beside the part instead of in it."""
_WITHOUT_PART = {"Qwen2VLForConditionalGeneration": "qwen2", "Qwen2_5_VLForConditionalGeneration": "qwen2"}
"""Architectures whose config.json has the language model's fields among its own."""
_ALONE = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3", "kimi_k2": "deepseek_v3"}
"""model_type of a part that computes from text what this one does."""
_EMBEDDING = "embed_tokens.weight"
"""A tensor of this name is there where names lack "model."."""
_PREFIXES = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
    "model.text_model.": "model.",
}


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The config.json of the language model; what it was given if that is no part of anything, and has a head."""
    part = next((config[name] for name in _PARTS if isinstance(config.get(name), Mapping)), None)
    names = config.get("architectures")
    if part is None:
        family = _WITHOUT_PART.get(str(names[0])) if isinstance(names, list) and names else None
        if family is not None:
            return {**config, "architectures": None, "model_type": family}
        return {**config, "tie_word_embeddings": True} if is_headless(config) else config
    shared = {name: config[name] for name in _SHARED if name in config}
    family = part.get("model_type")
    found = {**shared, **{name: value for name, value in part.items() if value is not None or name not in shared}}
    return {**found, "model_type": _ALONE.get(family, family) if isinstance(family, str) else family}


def text_part(config: dict[str, Any], tensors: dict[str, TensorInfo]) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    """The config.json of the language model, and the tensors by the names that they have in it; others keep theirs.

    Models that embed are often saved with names that lack "model.". Both config.json and its part say whether the head
    is the embedding, and libraries disagree about which counts: the tensors decide.
    """
    found = text_config(config)
    if found is not config:
        tensors = _renamed(tensors, _name_alone)
        found = {**found, "tie_word_embeddings": "lm_head.weight" not in tensors}
    if _EMBEDDING in tensors:
        tensors = _renamed(tensors, lambda name: name if name.startswith("lm_head.") else f"model.{name}")
    return found, tensors


def is_headless(config: Mapping[str, Any]) -> bool:
    """Whether it is of a model without its head, such as "Qwen3Model", of which its embedding takes the place."""
    names = config.get("architectures")
    return isinstance(names, list) and bool(names) and isinstance(names[0], str) and names[0].endswith("Model")


def _renamed(tensors: dict[str, TensorInfo], new: Callable[[str], str]) -> dict[str, TensorInfo]:
    return {(name := new(old)): replace(tensor, name=name) for old, tensor in tensors.items()}


def _name_alone(name: str) -> str:
    for prefix, alone in _PREFIXES.items():
        if name.startswith(prefix):
            return alone + name.removeprefix(prefix)
    return name
