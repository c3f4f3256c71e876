"""The tiny models whose logits are compared with transformers: name -> arguments of tiny.write_checkpoint.

Together they cover every architecture, grouped-query ratios 1, 2, 3 and 7, tied and untied heads, biases, implicit and
explicit head sizes, every kind of rotary embedding, both forms of config.json and sizes that are no multiple of 16.
The long ones are read in several splits of the context; where rms_norm_eps is large, a wrong one shows.
"""

import numpy as np

TOKENS = 512
LONG_TOKENS = 1200
KL_SHARE = 0.4  # of KL(float32 || bf16 transformers) that we may have: rounding as little as we do gives 0.16 to 0.26

GOLDEN = {
    "llama": dict(architecture="LlamaForCausalLM"),
    "llama-implicit-head": dict(
        architecture="LlamaForCausalLM", head_dim=..., hidden_size=96, num_key_value_heads=4, tie_word_embeddings=True
    ),
    "llama-linear": dict(architecture="LlamaForCausalLM", rope="linear", hidden_size=84, num_attention_heads=6),
    "llama-llama3": dict(architecture="LlamaForCausalLM", rope="llama3", rope_theta=500000.0, vocab=299, layers=3),
    "llama-yarn": dict(architecture="LlamaForCausalLM", rope="yarn", form="new", tie_word_embeddings=True),
    "llama-biases": dict(architecture="LlamaForCausalLM", attention_bias=True, mlp_bias=True, rms_norm_eps=0.05),
    "mistral-window": dict(architecture="MistralForCausalLM", sliding_window=100, form="new", head_dim=40),
    "mistral-full": dict(architecture="MistralForCausalLM", sliding_window=None, num_key_value_heads=1),
    "qwen2": dict(architecture="Qwen2ForCausalLM", head_dim=..., rope_theta=1000000.0, tie_word_embeddings=True),
    "qwen2-gqa7": dict(
        architecture="Qwen2ForCausalLM", form="new", head_dim=..., hidden_size=126, num_attention_heads=7,
        num_key_value_heads=1, vocab=281,
    ),
    "qwen3": dict(
        architecture="Qwen3ForCausalLM", form="new", rope_theta=1000000.0, tie_word_embeddings=True, rms_norm_eps=0.02
    ),
    "qwen3-gqa3": dict(
        architecture="Qwen3ForCausalLM", rope="yarn", head_dim=40, num_attention_heads=6, intermediate_size=184
    ),
    "qwen3-long": dict(architecture="Qwen3ForCausalLM", max_position_embeddings=2048, vocab=283),
    "mistral-long-window": dict(
        architecture="MistralForCausalLM", sliding_window=600, max_position_embeddings=2048, vocab=283
    ),
}  # fmt: skip

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
}  # fmt: skip


def prompt(name: str) -> np.ndarray:
    """int64 [T] random token ids for a case, the same on every machine."""
    count = LONG_TOKENS if "-long" in name else TOKENS
    vocab = LIVE[name].get("vocab", 331)
    return (np.random.PCG64(0).random_raw(count) % np.uint64(vocab)).astype(np.int64)
