"""Latent attention in GGUF files, in the two forms that llama.cpp's converter has written (conversion/deepseek.py)."""

from collections.abc import Callable

import numpy as np

Round = Callable[[np.ndarray], np.ndarray]

STORED = {
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
}
_KV_B = "self_attn.kv_b_proj.weight"
_GATING = {"softmax": 1, "sigmoid": 2}


def keys(config: dict, expanded: bool) -> dict:
    """Of a model's attention and router; `expanded`: in the old form, as if latents were expanded."""
    rank, rotary = config["kv_lora_rank"], config["qk_rope_head_dim"]
    key, value, heads = config["qk_nope_head_dim"] + rotary, config["v_head_dim"], config["num_attention_heads"]
    found = {
        "attention.kv_lora_rank": rank,
        "attention.head_count_kv": heads if expanded else 1,
        "attention.key_length": key if expanded else rank + rotary,
        "attention.value_length": value if expanded else rank,
        "rope.dimension_count": rotary,
    }
    if config["q_lora_rank"] is not None:
        found["attention.q_lora_rank"] = config["q_lora_rank"]
    if expanded:
        return found
    return found | {
        "attention.key_length_mla": key,
        "attention.value_length_mla": value,
        "expert_group_count": config["n_group"],
        "expert_group_used_count": config["topk_group"],
        "expert_gating_func": _GATING[config["scoring_func"]],
    }


def parted(weights: dict[str, np.ndarray], config: dict) -> dict[str, np.ndarray]:
    """The same weights with what expands latents as the new form stores it, under the names of that."""
    found = {}
    for name, values in weights.items():
        if name.endswith(_KV_B):
            layer = name.split(".")[2]
            keys, values = _halves(values, config)
            found[f"blk.{layer}.attn_k_b.weight"] = np.ascontiguousarray(keys.swapaxes(1, 2))
            found[f"blk.{layer}.attn_v_b.weight"] = np.ascontiguousarray(values)
        else:
            found[name] = values
    return found


def rounded(name: str, values: np.ndarray, config: dict, expanded: bool, work: Round) -> np.ndarray:
    """A matrix with its rows rounded as they are stored."""
    if expanded or not name.endswith(_KV_B):
        return work(values)
    keys, rest = _halves(values, config)
    keys = work(np.ascontiguousarray(keys.swapaxes(1, 2))).swapaxes(1, 2)
    return np.concatenate((keys, work(np.ascontiguousarray(rest))), 1).reshape(values.shape)


def _halves(values: np.ndarray, config: dict) -> tuple[np.ndarray, np.ndarray]:
    """[heads, nope, rank] and [heads, v, rank]."""
    nope, value = config["qk_nope_head_dim"], config["v_head_dim"]
    heads = values.reshape(config["num_attention_heads"], nope + value, -1)
    return heads[:, :nope], heads[:, nope:]
