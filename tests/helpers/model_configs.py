"""Configs, as config.json has them, whose weights and frequencies are compared with those of transformers."""

BASE = {
    "vocab_size": 101,
    "hidden_size": 72,
    "intermediate_size": 88,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
CONFIGS = {
    "llama": {"architectures": ["LlamaForCausalLM"], **BASE},
    "llama-tied": {"architectures": ["LlamaForCausalLM"], **BASE, "tie_word_embeddings": True, "head_dim": 24},
    "llama-biased": {"architectures": ["LlamaForCausalLM"], **BASE, "attention_bias": True, "mlp_bias": True},
    "mistral": {"architectures": ["MistralForCausalLM"], **BASE, "sliding_window": 64},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], **BASE},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], **BASE, "head_dim": 32},
    "qwen3-biased": {"architectures": ["Qwen3ForCausalLM"], **BASE, "head_dim": 32, "attention_bias": True},
}
_LATENT = {
    **BASE,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 40,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 40,
    "qk_nope_head_dim": 20,
    "qk_rope_head_dim": 8,
    "v_head_dim": 28,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
}
_QWEN3_MOE = {**BASE, "head_dim": 32, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
_GLM4_MOE = {
    **BASE,
    "head_dim": 32,
    "n_routed_experts": 12,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "n_group": 4,
    "topk_group": 2,
    "moe_intermediate_size": 40,
}
CONFIGS |= {
    "qwen3_moe": {"architectures": ["Qwen3MoeForCausalLM"], **_QWEN3_MOE},
    "qwen3_moe-mixed": {
        "architectures": ["Qwen3MoeForCausalLM"],
        **_QWEN3_MOE,
        "num_hidden_layers": 4,
        "mlp_only_layers": [3],
        "decoder_sparse_step": 2,
        "attention_bias": True,
    },
    "mixtral": {"architectures": ["MixtralForCausalLM"], **BASE, "num_local_experts": 3},
    "deepseek_v2": {
        "architectures": ["DeepseekV2ForCausalLM"],
        **_LATENT,
        "n_routed_experts": 6,
        "q_lora_rank": None,
        "topk_method": "greedy",
    },
    "deepseek_v3": {
        "architectures": ["DeepseekV3ForCausalLM"],
        **_LATENT,
        "n_routed_experts": 12,
        "n_group": 4,
        "topk_group": 2,
        "q_lora_rank": 24,
        "attention_bias": True,
    },
    "glm4_moe": {"architectures": ["Glm4MoeForCausalLM"], **_GLM4_MOE, "use_qk_norm": True, "attention_bias": True},
    "glm4_moe-plain": {"architectures": ["Glm4MoeForCausalLM"], **_GLM4_MOE, "first_k_dense_replace": 0},
    "gpt_oss": {"architectures": ["GptOssForCausalLM"], **BASE, "head_dim": 32, "num_local_experts": 7},
    "smollm3": {"architectures": ["SmolLM3ForCausalLM"], **BASE, "no_rope_layers": [1, 0], "pad_token_id": None},
}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
ROPES = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "default-500000": {"rope_type": "default", "rope_theta": 500000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
    "llama3.1": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, **LLAMA3},
    "llama3.2": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, **LLAMA3},
    "yarn": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32768},
    "yarn-short": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128},
    "yarn-small-theta": {
        "rope_type": "yarn",
        "rope_theta": 50.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32768,
        "beta_fast": 1000.0,
    },
    "yarn-untruncated": {
        "rope_type": "yarn",
        "rope_theta": 150000.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
    },
    "yarn-mscale": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "mscale": 1.0,
        "mscale_all_dim": 0.5,
    },
    "yarn-attention-factor": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 1024,
        "attention_factor": 1.25,
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0, 1.05, 1.1, 1.3],
        "long_factor": [1.0, 2.5, 17.3, 41.0],
        "original_max_position_embeddings": 1024,
    },
    "longrope-attention-factor": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0],
        "long_factor": [1.0, 32.0],
        "original_max_position_embeddings": 512,
        "factor": 16.0,
        "attention_factor": 1.19,
    },
    "proportional": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25, "factor": 2.0},
}
LONGER = {"dynamic": (4097, 8192), "longrope": (1025, 4096), "longrope-attention-factor": (513,)}
"""Contexts beyond those of training, for ropes that have other frequencies there."""
HEAD_DIMS = (64, 128)


def _repeated(value, count: int):
    """A list of so many numbers, each of a shorter one in turn; what is no list, as it is."""
    return [value[number * len(value) // count] for number in range(count)] if isinstance(value, list) else value


def rope_config(name: str, head_dim: int, form: str) -> dict:
    """A config with this rope, in transformers 5's form ("new") or the one before ("old")."""
    rope = {field: _repeated(value, head_dim // 2) for field, value in ROPES[name].items()}
    config = {**CONFIGS["llama"], "head_dim": head_dim}
    if form == "new":
        return {**config, "rope_parameters": rope}
    theta, kind = rope.pop("rope_theta"), rope.pop("rope_type")
    scaling = None if kind == "default" else {"type": kind, **rope}
    return {**config, "rope_theta": theta, "rope_scaling": scaling}
