"""The metadata of a GGUF file in the form of config.json."""

from __future__ import annotations

import math
from collections.abc import Set
from typing import Any

from ellm.checkpoint import pooling
from ellm.checkpoint.gguf_families import Family
from ellm.checkpoint.gguf_fields import ModelFields, shortest
from ellm.checkpoint.gguf_file import GGUFFile
from ellm.checkpoint.gguf_latent import read_latent, read_latent_rope
from ellm.checkpoint.gguf_rope import read_rope
from ellm.system.errors import InputError

_PLAIN_LLAMA = "LlamaForCausalLM"
_GROUPS = ("expert_group_count", "expert_group_used_count")  # 0 or absent: experts are in no groups


def read_config(file: GGUFFile, family: Family, biased: Set[str]) -> dict[str, Any]:
    """config.json of a model of which these modules have biases.

    Raises InputError if a field is missing, broken or asks for what ellm does not have.
    """
    fields = ModelFields(file)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise InputError(f"{file.path}: tensor token_embd.weight is missing")
    heads, context = fields.size("attention.head_count"), fields.size("context_length")
    later = fields.count(family.later_layers) if family.later_layers else 0
    if later >= fields.layers:
        raise fields.error(family.later_layers, f"must be below block_count {fields.layers}")
    attention = read_latent(fields, heads, fields.layers - later) if family.latent else _attention(fields, heads)
    config = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "hidden_act": "silu",
        "hidden_size": fields.size("embedding_length"),
        "intermediate_size": fields.size("feed_forward_length"),
        "num_hidden_layers": fields.layers - later,
        "num_attention_heads": heads,
        **attention,
        "max_position_embeddings": context,
        "vocab_size": embedding.shape[0],
        "rms_norm_eps": shortest(fields.number("attention.layer_norm_rms_epsilon")),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "torch_dtype": "bfloat16",
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": _end_of_text(file),
    }
    config |= {**family.constants, **_own_fields(fields, family)}
    config |= {"num_nextn_predict_layers": later} if later else {}
    config |= {switch: bool(modules & biased) for switch, modules in family.switches.items()}
    config |= _rope(fields, family, attention, context)
    config |= pooling.in_gguf(fields.count("pooling_type"))
    return config | _windows(fields, family, config)


def _attention(fields: ModelFields, heads: int) -> dict[str, Any]:
    """Sizes of heads."""
    head_dim = fields.size("attention.key_length", fields.size("embedding_length") // heads or 1)
    if fields.size("attention.value_length", head_dim) != head_dim:
        raise fields.error("attention.value_length", f"must equal the head size {head_dim}")
    return {"num_key_value_heads": fields.size("attention.head_count_kv", heads), "head_dim": head_dim}


def _rope(fields: ModelFields, family: Family, attention: dict[str, Any], context: int) -> dict[str, Any]:
    if family.latent:
        _check_scale(fields, attention["qk_nope_head_dim"] + attention["qk_rope_head_dim"])
        return read_latent_rope(fields, attention["qk_rope_head_dim"], context)
    head_dim = attention["head_dim"]
    _check_scale(fields, head_dim)
    rope = read_rope(fields, head_dim, context)
    if family.interleaved and "partial_rotary_factor" in rope:
        raise fields.error("rope.dimension_count", f"must equal the head size {head_dim}")
    if family.yarn:
        scaling = rope["rope_scaling"] or {"rope_type": "default"}
        rope["rope_scaling"] = {**scaling, **(family.yarn if scaling["rope_type"] == "yarn" else {})}
    return rope


def _own_fields(fields: ModelFields, family: Family) -> dict[str, Any]:
    """What a family has beside the fields of all."""
    found: dict[str, Any] = {
        name: f"blk.0.{stem}.weight" in fields.file.tensors for name, stem in family.present.items()
    }
    for name, key in family.fields.items():
        if key == "expert_weights_scale":
            found[name] = shortest(fields.number(key, 1.0)) or 1.0  # 0 is not set
        elif key == "expert_weights_norm":
            found[name] = fields.flag(key)
        elif key in _GROUPS:
            found[name] = fields.count(key, 1) or 1
        else:
            found[name] = fields.count(key) if key == "leading_dense_block_count" else fields.size(key)
    return found


def read_notes(file: GGUFFile, family: Family) -> list[str]:
    """What the user should know about what the metadata leave open."""
    key = ModelFields(file).key(_GROUPS[0])
    if _GROUPS[0] not in family.fields.values() or key in file.metadata:
        return []
    return [
        f"{file.path}: does not say {key}, as older files do not: experts are chosen among all, as llama.cpp does, "
        "though DeepSeek-V2, V3 and R1 choose groups first"
    ]


def read_generation(file: GGUFFile) -> dict[str, Any]:
    """generation_config.json: what ends a text, and, by its own keys, how the model's makers want it to be sampled."""
    sampling = {key: value for key, value in file.metadata.items() if key.startswith("general.sampling.")}
    numbers = {key: shortest(value) if isinstance(value, float) else value for key, value in sampling.items()}
    return {"eos_token_id": _end_of_text(file), **numbers}


def _end_of_text(file: GGUFFile) -> list[int]:
    ids = [file.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    return [number for number in ids if isinstance(number, int)]


def _check_scale(fields: ModelFields, head_dim: int) -> None:
    """What attention's scores are multiplied with; 0 is not set."""
    scale = fields.number("attention.scale", 0.0)
    if scale and not math.isclose(scale, head_dim**-0.5, rel_tol=1e-6):
        raise fields.error("attention.scale", f"must be {head_dim}^-0.5 = {head_dim**-0.5:.6g}")


def _windows(fields: ModelFields, family: Family, config: dict[str, Any]) -> dict[str, Any]:
    """Layers that see only so many of the last positions: all, but every n-th by a pattern n, or those with a flag."""
    layers, theta = config["num_hidden_layers"], config["rope_theta"]
    window = fields.count("attention.sliding_window")
    flags = fields.per_layer("attention.sliding_window_pattern", layers)
    if flags is not None and not all(flag in (False, True) for flag in flags):
        raise fields.error(
            "attention.sliding_window_pattern", "must be a number or say of each layer whether it slides"
        )
    every = fields.count("attention.sliding_window_pattern", family.pattern or 0) if flags is None else 0
    local_theta = fields.number("rope.freq_base_swa", theta)
    if not 0 < window < config["max_position_embeddings"] or (flags is not None and not any(flags)) or every == 1:
        return {"layer_types": ["full_attention"] * layers} if family.pattern else {}
    if local_theta != theta:
        raise fields.error("rope.freq_base_swa", f"must equal rope.freq_base {theta:g}")
    local = flags if flags is not None else [not every or layer % every < every - 1 for layer in range(layers)]
    types = ["sliding_attention" if flag else "full_attention" for flag in local]
    windows = {"sliding_window": window, "layer_types": types}
    if family.pattern is None:
        raise fields.error("attention.sliding_window", f"which ellm does not read for {family.architecture}")
    if family.pattern:
        return windows
    if family.architecture != _PLAIN_LLAMA:
        return windows | {"use_sliding_window": True}
    if any(config[switch] for switch in family.switches):
        raise fields.error("attention.sliding_window", "which ellm does not have in a model with biases")
    return windows | {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
