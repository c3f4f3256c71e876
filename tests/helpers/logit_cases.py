"""The tiny models whose logits are compared with transformers: name -> arguments of tiny.write_checkpoint.

Together they cover every architecture, grouped-query ratios 1, 2, 3 and 7, tied and untied heads, biases, implicit and
explicit head sizes, every kind of rotary embedding, both forms of config.json and sizes that are no multiple of 16;
with experts, their numbers 5, 7, 12 and 24, top-k from 1 to 8, groups, shared experts and dense layers between, and
every precision. The long ones are read in several splits of the context; where rms_norm_eps is large, a wrong one
shows.
"""

import numpy as np
from families import family
from tiny import ROPES
from tiny_shapes import is_latent

TOKENS = 512
LONG_TOKENS = 1200
KL_SHARE = 0.4  # of KL(float32 || bf16 transformers) that we may have: rounding as little as we do gives 0.16 to 0.31
EXPERTS_KL_SHARE = 1.1  # the same where the few rows that rounding sends to other experts make the mean

GOLDEN = {
    "llama": dict(architecture="LlamaForCausalLM"),
    "llama-implicit-head": dict(
        architecture="LlamaForCausalLM", head_dim=..., hidden_size=96, num_key_value_heads=4, tie_word_embeddings=True
    ),
    "llama-linear": dict(architecture="LlamaForCausalLM", rope="linear", hidden_size=84, num_attention_heads=6),
    "llama-llama3": dict(architecture="LlamaForCausalLM", rope="llama3", rope_theta=500000.0, vocab=299, layers=3),
    "llama-yarn": dict(architecture="LlamaForCausalLM", rope="yarn", form="new", tie_word_embeddings=True),
    "llama-dynamic": dict(architecture="LlamaForCausalLM", rope="dynamic", form="new", max_position_embeddings=256),
    "llama-factors": dict(architecture="LlamaForCausalLM", rope="longrope"),
    "llama-biases": dict(architecture="LlamaForCausalLM", attention_bias=True, mlp_bias=True, rms_norm_eps=0.05),
    "mistral-window": dict(architecture="MistralForCausalLM", sliding_window=100, form="new", head_dim=40),
    "mistral-full": dict(architecture="MistralForCausalLM", sliding_window=None, num_key_value_heads=1),
    "qwen2": dict(architecture="Qwen2ForCausalLM", head_dim=..., rope_theta=1000000.0, tie_word_embeddings=True),
    "qwen2-gqa7": dict(
        architecture="Qwen2ForCausalLM", form="new", head_dim=..., hidden_size=126, num_attention_heads=7,
        num_key_value_heads=1, vocab=281,
    ),
    "qwen2-extended": dict(  # as Qwen tells people to make a model's context longer
        architecture="Qwen2ForCausalLM", max_position_embeddings=128, use_sliding_window=False, sliding_window=131072,
        rope={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    ),
    "qwen3": dict(
        architecture="Qwen3ForCausalLM", form="new", rope_theta=1000000.0, tie_word_embeddings=True, rms_norm_eps=0.02
    ),
    "qwen3-gqa3": dict(
        architecture="Qwen3ForCausalLM", rope="yarn", head_dim=40, num_attention_heads=6, intermediate_size=184
    ),
    "smollm3": dict(architecture="SmolLM3ForCausalLM", layers=3, no_rope_layers=[1, 0, 1], tie_word_embeddings=True),
    "qwen3-long": dict(architecture="Qwen3ForCausalLM", max_position_embeddings=2048, vocab=283),
    "mistral-long-window": dict(
        architecture="MistralForCausalLM", sliding_window=600, max_position_embeddings=2048, vocab=283
    ),
}  # fmt: skip

SPARSE = {  # models with experts or quantised weights that also have golden logits
    "llama-f16": dict(architecture="LlamaForCausalLM", precision="f16"),
    "qwen3-moe": dict(architecture="Qwen3MoeForCausalLM"),
    "qwen3-moe-top8": dict(
        architecture="Qwen3MoeForCausalLM", form="new", layers=3, num_experts=12, num_experts_per_tok=8,
        norm_topk_prob=False, mlp_only_layers=[0], moe_intermediate_size=24, tie_word_embeddings=True,
    ),
    "qwen3-moe-fp8": dict(
        architecture="Qwen3MoeForCausalLM", precision="fp8", hidden_size=136, moe_intermediate_size=144
    ),
    "mixtral": dict(architecture="MixtralForCausalLM", form="new", sliding_window=100),
    "deepseek-v2": dict(
        architecture="DeepseekV2ForCausalLM",
        rope=dict(
            type="yarn", factor=8, original_max_position_embeddings=128, beta_fast=32, beta_slow=1, mscale=0.707,
            mscale_all_dim=0.707,
        ),
    ),
    "deepseek-v2-groups": dict(
        architecture="DeepseekV2ForCausalLM", form="new", topk_method="group_limited_greedy", n_routed_experts=12,
        n_group=4, topk_group=2, num_experts_per_tok=4, q_lora_rank=56, routed_scaling_factor=1.5,
    ),
    "deepseek-v3": dict(architecture="DeepseekV3ForCausalLM", rope="yarn-mscale", layers=3),
    "deepseek-v3-fp8": dict(
        architecture="DeepseekV3ForCausalLM", precision="fp8", form="new", hidden_size=140, q_lora_rank=136,
        kv_lora_rank=160, qk_nope_head_dim=128, v_head_dim=128, num_attention_heads=2, num_key_value_heads=2,
    ),
    "glm4-moe": dict(architecture="Glm4MoeForCausalLM", layers=3),
    "gpt-oss-mxfp4": dict(architecture="GptOssForCausalLM", rope="yarn-untruncated", precision="mxfp4"),
    "gpt-oss": dict(
        architecture="GptOssForCausalLM", rope="yarn-untruncated", form="new", hidden_size=88, intermediate_size=50,
        num_local_experts=7, num_experts_per_tok=4, swiglu_limit=2.0,
    ),
}  # fmt: skip
GOLDEN |= SPARSE

CONTEXTS = {"llama-dynamic": TOKENS, "llama-factors": TOKENS}
"""How long sequences are, where frequencies depend on it: the prompt, which is all that transformers is given."""

ARCHITECTURES = {
    "llama": dict(architecture="LlamaForCausalLM", hidden_size=84),
    "mistral": dict(architecture="MistralForCausalLM", sliding_window=77),
    "qwen2": dict(architecture="Qwen2ForCausalLM"),
    "qwen3": dict(architecture="Qwen3ForCausalLM"),
}

LIVE = {
    **GOLDEN,
    **{
        f"{family}-{rope or 'default'}-{form}": dict(
            **arguments, rope=rope, form=form, head_dim=(24, 40, 26)[number % 3], num_attention_heads=6,
            num_key_value_heads=(6, 3, 2, 1)[number % 4], tie_word_embeddings=number % 2 == 0, seed=number,
            vocab=(331, 267, 300)[number % 3],
        )
        for family, arguments in ARCHITECTURES.items()
        for number, (rope, form) in enumerate(
            (rope, form) for rope in (None, "linear", "llama3", "yarn") for form in ("old", "new")
        )
    },
    "llama-yarn-explicit": dict(
        architecture="LlamaForCausalLM",
        rope=dict(
            rope_type="yarn", factor=8.0, original_max_position_embeddings=128, beta_fast=20.0, beta_slow=2.0,
            attention_factor=1.25, truncate=False,
        ),
    ),
    "llama-proportional": dict(architecture="LlamaForCausalLM", rope="proportional", form="new"),
    "llama-factors-short": dict(
        architecture="LlamaForCausalLM", rope={**ROPES["longrope"], "original_max_position_embeddings": 512}, form="new"
    ),
    "llama-old-type": dict(architecture="LlamaForCausalLM", rope={"type": "linear", "factor": 2.0}),
    "qwen2-window": dict(
        architecture="Qwen2ForCausalLM", sliding_window=60, use_sliding_window=True, max_window_layers=1, layers=3
    ),
    "qwen3-bias": dict(architecture="Qwen3ForCausalLM", attention_bias=True, rope="yarn"),
    "qwen3-layer-types": dict(
        architecture="Qwen3ForCausalLM", layer_types=["sliding_attention", "full_attention"], sliding_window=50,
        use_sliding_window=True,
    ),
    "qwen3-gqa80": dict(
        architecture="Qwen3ForCausalLM", num_attention_heads=80, num_key_value_heads=1, head_dim=16
    ),
    "qwen3-narrow": dict(architecture="Qwen3ForCausalLM", hidden_size=8, intermediate_size=3, head_dim=256),
    "mistral-layer-types": dict(
        architecture="MistralForCausalLM", layer_types=["sliding_attention", "full_attention"], sliding_window=50
    ),
    "smollm3-defaults": dict(
        architecture="SmolLM3ForCausalLM", layers=5, tie_word_embeddings=..., use_sliding_window=True,
        sliding_window=60, rope="yarn", form="new", head_dim=..., attention_bias=True, mlp_bias=True,
    ),
    "smollm3-types": dict(
        architecture="SmolLM3ForCausalLM", no_rope_layer_interval=2, use_sliding_window=True, sliding_window=60,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "mistral-window-1": dict(architecture="MistralForCausalLM", sliding_window=1),
    "llama-no-kv-heads": dict(architecture="LlamaForCausalLM", num_key_value_heads=..., rms_norm_eps=...),
    "llama-yarn-mscale": dict(
        architecture="LlamaForCausalLM",
        rope=dict(
            rope_type="yarn", factor=8.0, original_max_position_embeddings=128, mscale=0.707, mscale_all_dim=0.5
        ),
    ),
    "qwen3-real-widths": dict(
        architecture="Qwen3ForCausalLM", hidden_size=256, head_dim=128, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=512, vocab=1000, layers=4, shards=3,
    ),
    "llama-f16-tied": dict(architecture="LlamaForCausalLM", precision="f16", form="new", tie_word_embeddings=True),
    "qwen3-moe-f16": dict(architecture="Qwen3MoeForCausalLM", precision="f16"),
    "qwen3-moe-top1": dict(
        architecture="Qwen3MoeForCausalLM", num_experts=5, num_experts_per_tok=1, norm_topk_prob=False
    ),
    "qwen3-moe-steps": dict(
        architecture="Qwen3MoeForCausalLM", layers=4, decoder_sparse_step=2, attention_bias=True, rope="yarn"
    ),
    "qwen3-moe-window": dict(
        architecture="Qwen3MoeForCausalLM", use_sliding_window=True, sliding_window=60, form="new",
        num_experts_per_tok=7,
    ),
    "qwen3-moe-long": dict(architecture="Qwen3MoeForCausalLM", max_position_embeddings=2048, vocab=283, num_experts=24),
    "qwen3-moe-fp8-mixed": dict(
        architecture="Qwen3MoeForCausalLM", precision="fp8", hidden_size=264, moe_intermediate_size=40,
        kept_in_bf16=("model.layers.0.self_attn.o_proj", "model.layers.1.self_attn"),
    ),
    "mixtral-tied": dict(
        architecture="MixtralForCausalLM", tie_word_embeddings=True, num_local_experts=12, num_experts_per_tok=5
    ),
    "deepseek-v2-fp8": dict(architecture="DeepseekV2ForCausalLM", precision="fp8", first_k_dense_replace=0),
    "deepseek-v2-yarn": dict(
        architecture="DeepseekV2ForCausalLM", form="new", n_shared_experts=1, attention_bias=True, q_lora_rank=40,
        rope=dict(
            rope_type="yarn", factor=8.0, original_max_position_embeddings=128, mscale=1.0, mscale_all_dim=0.5
        ),
    ),
    "deepseek-v3-no-q-lora": dict(
        architecture="DeepseekV3ForCausalLM", q_lora_rank=None, n_group=1, topk_group=1, n_routed_experts=7,
        num_experts_per_tok=5, form="new", first_k_dense_replace=0, routed_scaling_factor=2.827,
    ),
    "deepseek-v3-top8": dict(
        architecture="DeepseekV3ForCausalLM", n_routed_experts=24, n_group=4, topk_group=3, num_experts_per_tok=8,
        attention_bias=True, tie_word_embeddings=True,
    ),
    "deepseek-v3-whole-groups": dict(  # even where biased scores are negative
        architecture="DeepseekV3ForCausalLM", num_experts_per_tok=8, form="new"
    ),
    "deepseek-v3-half-split": dict(architecture="DeepseekV3ForCausalLM", rope_interleave=False),
    "deepseek-v3-top1": dict(
        architecture="DeepseekV3ForCausalLM", num_experts_per_tok=1, norm_topk_prob=False, n_shared_experts=2,
    ),
    "deepseek-v3-fp8-odd": dict(architecture="DeepseekV3ForCausalLM", precision="fp8", rope="yarn-mscale"),
    "deepseek-v3-long": dict(architecture="DeepseekV3ForCausalLM", max_position_embeddings=2048, vocab=283),
    "glm4-moe-plain": dict(  # without what it can be without
        architecture="Glm4MoeForCausalLM", use_qk_norm=False, attention_bias=False, n_group=1, topk_group=1,
        norm_topk_prob=False, first_k_dense_replace=0, n_routed_experts=7, n_shared_experts=2,
    ),
    "glm4-moe-yarn": dict(
        architecture="Glm4MoeForCausalLM", form="new", head_dim=40, partial_rotary_factor=...,
        rope=dict(
            rope_type="yarn", factor=8.0, original_max_position_embeddings=128, partial_rotary_factor=0.25
        ),
    ),
    "glm4-moe-fp8": dict(architecture="Glm4MoeForCausalLM", precision="fp8", hidden_size=136, tie_word_embeddings=True),
    "glm4-moe-long": dict(
        architecture="Glm4MoeForCausalLM", max_position_embeddings=2048, vocab=283, partial_rotary_factor=1.0
    ),
    "gpt-oss-mxfp4-tails": dict(
        architecture="GptOssForCausalLM", precision="mxfp4", rope="yarn-untruncated", hidden_size=288, layers=3,
        intermediate_size=32, num_local_experts=12, num_experts_per_tok=4, form="new",
    ),
    "gpt-oss-top1": dict(
        architecture="GptOssForCausalLM", rope="yarn-untruncated", num_experts_per_tok=1, sliding_window=1
    ),
    "gpt-oss-long": dict(
        architecture="GptOssForCausalLM", rope="yarn-untruncated", max_position_embeddings=2048, vocab=283,
        sliding_window=128, precision="mxfp4", num_local_experts=7,
    ),
}  # fmt: skip


WITH_EXPERTS = [name for name, arguments in LIVE.items() if family(arguments["architecture"]).router]
LATENT = [name for name, arguments in LIVE.items() if is_latent(family(arguments["architecture"]).config)]


def expanded(arguments: dict) -> dict:
    """The arguments that write the same numbers unquantised: what transformers is given."""
    return {**arguments, "expanded": arguments.get("precision") in ("fp8", "mxfp4")}


def prompt(name: str) -> np.ndarray:
    """int64 [T] random token ids for a case, the same on every machine."""
    count = LONG_TOKENS if "-long" in name else TOKENS
    vocab = LIVE[name].get("vocab", 331)
    return (np.random.PCG64(0).random_raw(count) % np.uint64(vocab)).astype(np.int64)
