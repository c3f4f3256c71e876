"""A checkpoint in a GGUF file: its metadata and tensors under the names of Hugging Face."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from ellm.checkpoint.checkpoint import Checkpoint
from ellm.checkpoint.gguf_file import GGUFFile
from ellm.checkpoint.gguf_parts import read_parts
from ellm.checkpoint.gguf_tokenizer import build_tokenizer
from ellm.checkpoint.tensors import TensorInfo
from ellm.system.errors import InputError

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_MODEL_TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_STORED_NAME = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")
_LLAMA3_SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def open_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file of a llama, qwen2 or qwen3 model. Raises InputError if it is broken or of another kind."""
    file = read_parts(path)
    config = read_config(file)
    generation = {"eos_token_id": config["eos_token_id"]}
    return Checkpoint(str(path), config, generation, _read_tensors(file, config), lambda: build_tokenizer(file))


def read_config(file: GGUFFile) -> dict[str, Any]:
    """The metadata in the form of config.json."""
    family = file.field("general.architecture", str)
    if family not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise InputError(f"{file.path}: general.architecture is {family!r}, of GGUF files ellm reads {known}")
    experts = file.field(f"{family}.expert_count", int, 0)
    if experts:
        raise InputError(
            f"{file.path}: {family}.expert_count is {experts}, must be 0: experts are read from safetensors"
        )
    hidden = _size(file, f"{family}.embedding_length")
    heads = _size(file, f"{family}.attention.head_count")
    head_dim = _size(file, f"{family}.attention.key_length", hidden // heads)
    for key in (f"{family}.attention.value_length", f"{family}.rope.dimension_count"):
        if _size(file, key, head_dim) != head_dim:
            raise InputError(f"{file.path}: {key} is {file.metadata[key]}, must equal the head size {head_dim}")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise InputError(f"{file.path}: tensor token_embd.weight is missing")
    eos = [file.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    return {
        "architectures": [_ARCHITECTURES[family]],
        "model_type": family,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": _size(file, f"{family}.feed_forward_length"),
        "num_hidden_layers": _size(file, f"{family}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _size(file, f"{family}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": _size(file, f"{family}.context_length"),
        "vocab_size": embedding.shape[0],
        "rms_norm_eps": _shortest(file.field(f"{family}.attention.layer_norm_rms_epsilon", float)),
        "rope_theta": file.field(f"{family}.rope.freq_base", float, 10000.0),
        "rope_scaling": _rope_scaling(file, family, head_dim),
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in file.tensors,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "torch_dtype": "bfloat16",
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": [number for number in eos if isinstance(number, int)],
    }


def _size(file: GGUFFile, key: str, default: int | None = None) -> int:
    value = file.field(key, int, default)
    if not 1 <= value < 1 << 31:
        raise InputError(f"{file.path}: {key} is {value}, must be at least 1 and below 2^31")
    return value


def _shortest(value: float) -> float:
    """The shortest decimal that rounds to this float32: 1e-05 for 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _rope_scaling(file: GGUFFile, family: str, head_dim: int) -> dict[str, Any] | None:
    if "rope_freqs.weight" in file.tensors:
        return _llama3_scaling(file, family, head_dim)
    key = f"{family}.rope.scaling"
    kind = file.field(f"{key}.type", str, "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise InputError(f"{file.path}: {key}.type is {kind!r}, ellm has none, linear, yarn")
    factor = file.field(f"{key}.factor", float)
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    scaling: dict[str, Any] = {"rope_type": "yarn", "factor": factor}
    scaling["original_max_position_embeddings"] = _size(file, f"{key}.original_context_length")
    scaling["beta_fast"] = file.field(f"{key}.yarn_beta_fast", float, 32.0)
    scaling["beta_slow"] = file.field(f"{key}.yarn_beta_slow", float, 1.0)
    magnitude = file.field(f"{key}.attn_factor", float, 1.0)
    if magnitude != 1.0:  # llama.cpp multiplies it with YaRN's own factor
        scaling["attention_factor"] = magnitude * (0.1 * math.log(factor) + 1.0)
    return scaling


def _llama3_scaling(file: GGUFFile, family: str, head_dim: int) -> dict[str, Any]:
    """llama3 scaling is stored as its head_dim / 2 divisors: find the factor and check the rest."""
    tensor = _tensor_info(file, "rope_freqs.weight", "rope_freqs.weight")
    if tensor.shape != (head_dim // 2,) or tensor.dtype != "F32":
        raise InputError(
            f"{file.path}: rope_freqs.weight is {tensor.dtype} {list(tensor.shape)}, must be F32 [{head_dim // 2}]"
        )
    stored = np.fromfile(file.path, "<f4", head_dim // 2, offset=tensor.offset)
    factor = float(stored.max())
    theta = file.field(f"{family}.rope.freq_base", float, 10000.0)
    wavelength = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    low, high = _LLAMA3_SCALING["low_freq_factor"], _LLAMA3_SCALING["high_freq_factor"]
    smooth = np.clip((_LLAMA3_SCALING["original_max_position_embeddings"] / wavelength - low) / (high - low), 0, 1)
    with np.errstate(all="ignore"):
        divisors = 1 / ((1 - smooth) / factor + smooth)
    if not np.allclose(stored, divisors, rtol=1e-4):
        raise InputError(f"{file.path}: rope_freqs.weight holds other divisors than llama3 scaling by {factor:g}")
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3_SCALING}


def _read_tensors(file: GGUFFile, config: dict[str, Any]) -> dict[str, TensorInfo]:
    """Tensors by their Hugging Face names; those that a text model does not have keep their own, for a note on them."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    found = {}
    for stored in file.tensors:
        match = _STORED_NAME.fullmatch(stored)
        part = match and (_LAYER_TENSORS if match[1] else _MODEL_TENSORS).get(match[2])
        if not match or not part:
            if stored != "rope_freqs.weight":  # the configuration has its numbers
                found[stored] = _tensor_info(file, stored, stored)
            continue
        name = f"model.layers.{int(match[1])}.{part}.{match[3]}" if match[1] else f"{part}.{match[3]}"
        interleaved = heads.get(match[2], 0) if config["model_type"] == "llama" else 0
        found[name] = _tensor_info(file, stored, name, interleaved)
    return found


def _tensor_info(file: GGUFFile, stored: str, name: str, interleaved_heads: int = 0) -> TensorInfo:
    tensor = file.tensors[stored]
    if interleaved_heads and tensor.shape[0] % (2 * interleaved_heads):
        raise InputError(
            f"{file.path}: tensor {stored} has {tensor.shape[0]} rows, "
            f"must be a multiple of 2 x {interleaved_heads} heads"
        )
    return TensorInfo(
        name,
        stored,
        tensor.shape,
        tensor.dtype,
        tensor.path,
        tensor.offset,
        tensor.row_bytes,
        interleaved_heads,
        in_gguf=True,
    )
