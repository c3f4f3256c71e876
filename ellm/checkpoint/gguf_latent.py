"""Latent attention of DeepSeek from the metadata and tensors of a GGUF file, in the form of config.json.

Files have one of two forms (llama.cpp, conversion/deepseek.py). New ones describe attention to the latents themselves:
one KV head, whose key is a latent and its rotated dims. Sizes of a head are in keys that end with _mla, and what
expands latents is two tensors: `attn_k_b` [heads, rank, nope], which is transposed, and `attn_v_b` [heads, v, rank].
Old ones describe heads after expansion, by `attn_kv_b` [heads * (nope + v), rank].
"""

from __future__ import annotations

import math
from typing import Any

from ellm.checkpoint.gguf_fields import ModelFields, shortest
from ellm.checkpoint.gguf_rope import read_rope
from ellm.system.errors import InputError

BY_HEADS = ("attn_k_b", "attn_v_b")  # stems of tensors that have a matrix for each head
_LOG_MULTIPLIER = "rope.scaling.yarn_log_multiplier"


def read_latent(fields: ModelFields, heads: int, layers: int) -> dict[str, Any]:
    """Sizes of heads and latents, and which form the tensors of so many layers have.

    Raises InputError if a field is missing or does not fit another, or a tensor one of them.
    """
    rank, rotary = fields.size("attention.kv_lora_rank"), fields.size("rope.dimension_count")
    expanded = fields.key("attention.key_length_mla") not in fields.file.metadata
    ending = "" if expanded else "_mla"
    key, value = (fields.size(f"attention.{part}_length{ending}") for part in ("key", "value"))
    if not expanded:
        _check(fields, "attention.key_length", rank + rotary, "kv_lora_rank + rope.dimension_count")
        _check(fields, "attention.value_length", rank, "kv_lora_rank")
    _check(fields, "attention.head_count_kv", heads if expanded else 1, "head_count" if expanded else "of latents")
    if key <= rotary:
        raise fields.error(f"attention.key_length{ending}", f"must be more than rope.dimension_count {rotary}")
    sizes = {
        "num_key_value_heads": heads,
        "q_lora_rank": fields.count("attention.q_lora_rank") or None,
        "kv_lora_rank": rank,
        "qk_nope_head_dim": key - rotary,
        "qk_rope_head_dim": rotary,
        "v_head_dim": value,
        "kv_b_apart": "blk.0.attn_kv_b.weight" not in fields.file.tensors,
    }
    if sizes["kv_b_apart"]:
        _check_tensors(fields, layers, ((heads, rank, key - rotary), (heads, value, rank)))
    return sizes


def _check(fields: ModelFields, name: str, wanted: int, why: str) -> None:
    if fields.size(name) != wanted:
        raise fields.error(name, f"must be {wanted} ({why})")


def _check_tensors(fields: ModelFields, layers: int, shapes: tuple[tuple[int, ...], ...]) -> None:
    for layer in range(layers):
        for stem, shape in zip(BY_HEADS, shapes, strict=True):
            name = f"blk.{layer}.{stem}.weight"
            tensor = fields.file.tensors.get(name)
            if tensor is None:
                raise InputError(f"{fields.file.path}: tensor {name} is missing")
            if tensor.shape != shape:
                raise InputError(f"{tensor.path}: tensor {name} is {list(tensor.shape)}, must be {list(shape)}")


def read_latent_rope(fields: ModelFields, rotary: int, context: int) -> dict[str, Any]:
    """Fields of `read_rope`, of the `rotary` dims of a head that are rotated. Raises InputError.

    What the key of YaRN's logarithm says is 0.1 mscale_all_dim. No key has mscale: as in llama.cpp, it is taken to be
    the same, which it is in all of DeepSeek's models, so that cos and sin have no factor.
    """
    rope = read_rope(fields, rotary, context)
    scaling = rope["rope_scaling"]
    if scaling and scaling["rope_type"] == "yarn":
        if "attention_factor" in scaling:
            raise fields.error("rope.scaling.attn_factor", "must be 1 in a model of latent attention")
        mscale = shortest(10 * shortest(fields.number(_LOG_MULTIPLIER)))
        if not 0 < mscale < math.inf:
            raise fields.error(_LOG_MULTIPLIER, "must be a positive number")
        scaling |= {"mscale": mscale, "mscale_all_dim": mscale}
    return rope
