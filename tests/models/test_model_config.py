"""config.json is read strictly: each wrong value is one line with the field and the value."""

import math

import pytest
from model_configs import BASE, CONFIGS

from ellm.models import ARCHITECTURES, from_config
from ellm.models.precision import METHODS
from ellm.system.errors import InputError

LLAMA, QWEN3 = CONFIGS["llama"], CONFIGS["qwen3"]
QWEN2, SMOLLM3, GLM = CONFIGS["qwen2"], CONFIGS["smollm3"], CONFIGS["glm4_moe"]
MOE, V2, V3, OSS = CONFIGS["qwen3_moe"], CONFIGS["deepseek_v2"], CONFIGS["deepseek_v3"], CONFIGS["gpt_oss"]
ROPE_KINDS = "default, linear, dynamic, yarn, longrope, llama3, proportional, mrope, su"
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0] * 9,
    "long_factor": [4.0] * 9,
    "original_max_position_embeddings": 256,
}


@pytest.mark.parametrize(
    "config, message",
    [
        ({}, "architectures: None names no architecture"),
        ({"architectures": []}, "architectures: [] names no architecture"),
        (
            {"architectures": None, "model_type": "gpt2"},
            f"model_type: 'gpt2' is unknown; known are {', '.join(one.family for one in ARCHITECTURES.values())}",
        ),
        (
            {"architectures": [["LlamaForCausalLM"]]},
            f"architectures: ['LlamaForCausalLM'] is unknown; known are {', '.join(ARCHITECTURES)}",
        ),
        (
            {"architectures": ["GPT2LMHeadModel"]},
            f"architectures: 'GPT2LMHeadModel' is unknown; known are {', '.join(ARCHITECTURES)}",
        ),
        ({**LLAMA, "hidden_size": ...}, "hidden_size: missing"),
        ({**LLAMA, "hidden_size": "72"}, "hidden_size: '72' is not a positive int"),
        ({**LLAMA, "num_hidden_layers": 0}, "num_hidden_layers: 0 is not a positive int"),
        ({**LLAMA, "vocab_size": True}, "vocab_size: True is not a positive int"),
        ({**LLAMA, "hidden_size": 1 << 40}, "hidden_size: 1099511627776 is more than 1048576"),
        ({**LLAMA, "head_dim": 1 << 31}, "head_dim: 2147483648 is more than 4096"),
        ({**LLAMA, "num_attention_heads": 1 << 20}, "num_attention_heads: 1048576 is more than 4096"),
        ({**LLAMA, "vocab_size": 1 << 31}, "vocab_size: 2147483648 is more than 16777216"),
        ({**OSS, "sliding_window": 1 << 63}, "sliding_window: 9223372036854775808 is more than 16777216"),
        ({**MOE, "num_experts": 1 << 31}, "num_experts: 2147483648 is more than 4096"),
        (
            {**MOE, "num_experts": 4096, "num_hidden_layers": 80},
            "num_experts: 4096 in each of 80 layers are more than 262144 in all",
        ),
        ({**LLAMA, "num_key_value_heads": 3}, "num_attention_heads: 4 is no multiple of num_key_value_heads 3"),
        ({**LLAMA, "hidden_size": 70}, "hidden_size: 70 is no multiple of num_attention_heads 4"),
        ({**LLAMA, "head_dim": 17}, "head_dim: 17 is odd, rope needs pairs"),
        ({**LLAMA, "hidden_act": "gelu"}, "hidden_act: 'gelu' is not supported, only silu is"),
        ({**QWEN2, "is_causal": False}, "is_causal: False is not supported, only True is"),
        ({**LLAMA, "rms_norm_eps": -1.0}, "rms_norm_eps: -1.0 is not a positive number"),
        ({**LLAMA, "tie_word_embeddings": "no"}, "tie_word_embeddings: 'no' is not true or false"),
        ({**LLAMA, "mlp_bias": 1}, "mlp_bias: 1 is not true or false"),
        ({**LLAMA, "rms_norm_eps": 1e-320}, "rms_norm_eps: 1e-320 is not from 1e-15 to 1000000000000000.0"),
        ({**LLAMA, "rms_norm_eps": 10**400}, f"rms_norm_eps: {10**400} is not from 1e-15 to 1000000000000000.0"),
        ({**LLAMA, "rope_theta": "big"}, "rope_theta: 'big' is not a positive number"),
        ({**LLAMA, "rope_theta": 1e300}, "rope_theta: 1e+300 is not from 1e-15 to 1000000000000000.0"),
        ({**LLAMA, "rope_theta": 1}, "rope_theta: 1 is not more than 1"),
        ({**LLAMA, "rope_scaling": [8]}, "rope_scaling: [8] is not an object"),
        ({**LLAMA, "rope_scaling": 0}, "rope_scaling: 0 is not an object"),
        (
            {**LLAMA, "rope_scaling": {"rope_type": ["yarn"]}},
            f"rope_scaling: rope_type: ['yarn'] is not supported, only {ROPE_KINDS} are",
        ),
        (
            {**LLAMA, "rope_scaling": {"rope_type": "yarn", "factor": 8, "beta_slow": 1e-320}},
            "rope_scaling: beta_slow: 1e-320 is not from 1e-15 to 1000000000000000.0",
        ),
        (
            {**LLAMA, "rope_scaling": {"type": "ntk", "factor": 2.0}},
            f"rope_scaling: type: 'ntk' is not supported, only {ROPE_KINDS} are",
        ),
        ({**LLAMA, "rope_parameters": {"rope_type": "longrope"}}, "rope_parameters: short_factor: None, 9 are needed"),
        (
            {**LLAMA, "rope_scaling": {**LONGROPE, "short_factor": [1] * 8}},
            "rope_scaling: short_factor: 8 numbers, 9 are needed",
        ),
        (
            {**LLAMA, "rope_scaling": {**LONGROPE, "long_factor": [1] * 8 + [0]}},
            "rope_scaling: long_factor[8]: 0 is not a positive number",
        ),
        (
            {**LLAMA, "rope_scaling": {"type": "yarn", "factor": 1 << 13}},
            "rope_scaling: factor: 8192 times 4096 positions are more than 16777216",
        ),
        (
            {**LLAMA, "rope_scaling": {"type": "yarn", "factor": 2, "attn_factor": 1.5}},
            "rope_scaling: attn_factor: 1.5 is not supported, only 1 is",
        ),
        (
            {**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2, "alpha": 1000}},
            "rope_scaling: alpha: 1000 is not supported",
        ),
        (
            {**LLAMA, "rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_theta": 1e6}},
            "rope_scaling: {'type': 'linear', 'factor': 2} stands beside another rope_parameters",
        ),
        (
            {**LLAMA, "rope_parameters": {"sliding_attention": {"rope_type": "default"}}},
            "rope_parameters: full_attention: None is no rope for layers of this type",
        ),
        (
            {**LLAMA, "rope_parameters": {"full_attention": None}},
            "rope_parameters: full_attention: None is no rope for layers of this type",
        ),
        (
            {**LLAMA, "rope_parameters": {"full_attention": {"rope_type": "linear"}}},
            "rope_parameters: full_attention: factor is missing",
        ),
        ({**LLAMA, "rotary_dim": 20}, "rotary_dim: 20 is no number of pairs of 18 dims"),
        ({**LLAMA, "rope_scaling": {"type": "linear"}}, "rope_scaling: factor is missing"),
        (
            {**LLAMA, "rope_parameters": {"rope_type": "linear", "factor": 0}},
            "rope_parameters: factor: 0 is not a positive number",
        ),
        ({**LLAMA, "partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5 is not supported, only 1 is"),
        ({**QWEN2, "layer_types": ["full_attention"]}, "layer_types: ['full_attention'] is not a list of 2 layers"),
        ({**SMOLLM3, "no_rope_layers": [1]}, "no_rope_layers: [1] is not a list of 2 zeros and ones"),
        ({**SMOLLM3, "no_rope_layers": [1, 2]}, "no_rope_layers: [1, 2] is not a list of 2 zeros and ones"),
        (
            {**QWEN2, "layer_types": ["full_attention", "linear_attention"]},
            "layer_types: 'linear_attention' is not full_attention or sliding_attention",
        ),
        (
            {**QWEN2, "layer_types": ["full_attention", "sliding_attention"]},
            "layer_types: 'sliding_attention' without a sliding_window in use",
        ),
        ({**QWEN3, "max_window_layers": -1}, "max_window_layers: -1 is not a positive int"),
        ({**MOE, "num_experts_per_tok": 6}, "num_experts_per_tok: 6 is more than the 5 of num_experts"),
        ({**MOE, "num_experts_per_tok": 0}, "num_experts_per_tok: 0 is not a positive int"),
        ({**MOE, "num_experts": ...}, "num_experts: missing"),
        ({**MOE, "norm_topk_prob": 1}, "norm_topk_prob: 1 is not true or false"),
        ({**MOE, "mlp_only_layers": 2}, "mlp_only_layers: 2 is not a list of layers"),
        ({**MOE, "decoder_sparse_step": 0}, "decoder_sparse_step: 0 is not a positive int"),
        ({**V3, "qk_rope_head_dim": 15}, "qk_rope_head_dim: 15 is odd, rope needs pairs"),
        ({**V3, "n_group": 5}, "n_group: 5 does not divide n_routed_experts 12"),
        ({**V3, "topk_group": 5}, "topk_group: 5 is more than n_group 4"),
        (
            {**V3, "num_experts_per_tok": 7},
            "num_experts_per_tok: 7 is more than the 6 experts of topk_group 2 groups",
        ),
        ({**V3, "n_group": 12, "topk_group": 6}, "n_group: 12 leaves groups of 1 of n_routed_experts 12, 2 are summed"),
        ({**V3, "scoring_func": "softmax"}, "scoring_func: 'softmax' is not supported, only sigmoid is"),
        ({**V3, "topk_method": "greedy"}, "topk_method: 'greedy' is not supported, only noaux_tc is"),
        ({**V3, "moe_layer_freq": 2}, "moe_layer_freq: 2 is not supported, only 1 is"),
        ({**V3, "q_lora_rank": 0}, "q_lora_rank: 0 is not a positive int"),
        ({**V2, "mlp_bias": True}, "mlp_bias: True is not supported, only False is"),
        ({**V2, "topk_method": "noaux_tc"}, "topk_method: 'noaux_tc' is not greedy or group_limited_greedy"),
        ({**V2, "topk_method": "group_limited_greedy"}, "n_group: missing"),
        ({**GLM, "n_group": 5}, "n_group: 5 does not divide n_routed_experts 12"),
        ({**GLM, "use_qk_norm": 1}, "use_qk_norm: 1 is not true or false"),
        ({**GLM, "partial_rotary_factor": "half"}, "partial_rotary_factor: 'half' is not a positive number"),
        ({**GLM, "partial_rotary_factor": 0}, "partial_rotary_factor: 0 is not a positive number"),
        ({**GLM, "partial_rotary_factor": 1.5}, "partial_rotary_factor: 1.5 is more than 1"),
        ({**GLM, "partial_rotary_factor": 0.1}, "partial_rotary_factor: 0.1 of 32 dims is no number of pairs"),
        (
            {**GLM, "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.04}},
            "rope_parameters: partial_rotary_factor: 0.04 of 32 dims is no number of pairs",
        ),
        ({**OSS, "num_experts_per_tok": 8}, "num_experts_per_tok: 8 is more than the 7 of num_local_experts"),
        ({**OSS, "layer_types": ["full_attention"]}, "layer_types: ['full_attention'] is not a list of 2 layers"),
        ({**OSS, "swiglu_limit": 0}, "swiglu_limit: 0 is not a positive number"),
        (
            {**MOE, "quantization_config": {"quant_method": "hqq"}},
            f"quantization_config: quant_method: 'hqq' is not supported, only {', '.join(METHODS)} are",
        ),
        (
            {**MOE, "quantization_config": {"quant_method": ["fp8"]}},
            f"quantization_config: quant_method: ['fp8'] is not supported, only {', '.join(METHODS)} are",
        ),
        (
            {
                **MOE,
                "quantization_config": {
                    "quant_method": "fp8",
                    "weight_block_size": [128, 128],
                    "modules_to_not_convert": [7],
                },
            },
            "quantization_config: modules_to_not_convert: [7] is not a list of names",
        ),
        (
            {**MOE, "quantization": {"bits": 4}},
            "quantization: {'bits': 4} is not supported, only quantization_config is",
        ),
        ({**MOE, "quantization_config": 8}, "quantization_config: 8 is not an object"),
        (
            {**MOE, "quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 128]}},
            "quantization_config: weight_block_size: [64, 128] is not [128, 128], nor null: one for a row or all",
        ),
    ],
)
def test_wrong_value_is_one_line(config, message):
    with pytest.raises(InputError) as caught:
        from_config({name: value for name, value in config.items() if value is not ...})
    assert str(caught.value) == f"config.json: {message}"


def test_defaults_are_those_of_the_family():
    bare = {name: value for name, value in BASE.items() if not name.startswith(("num_key", "max_", "rms", "tie"))}
    llama = from_config({"architectures": ["LlamaForCausalLM"], **bare}).config
    assert (llama.num_key_value_heads, llama.head_dim, llama.max_position_embeddings) == (4, 18, 2048)
    assert (llama.rms_norm_eps, llama.tie_word_embeddings, llama.windows) == (1e-6, False, (0, 0))
    qwen3 = from_config({"architectures": ["Qwen3ForCausalLM"], **bare, "num_key_value_heads": None}).config
    assert (qwen3.num_key_value_heads, qwen3.head_dim, qwen3.max_position_embeddings) == (4, 128, 32768)
    mistral = from_config(
        {"architectures": ["MistralForCausalLM"], **bare, "num_attention_heads": 8, "head_dim": 10}
    ).config
    assert (mistral.num_key_value_heads, mistral.windows) == (8, (4096, 4096))


def test_defaults_of_families_with_experts():
    bare = {name: value for name, value in BASE.items() if not name.startswith(("num_key", "max_", "rms", "tie"))}
    bare |= {"num_attention_heads": 8, "head_dim": 16}
    moe = from_config({"architectures": ["Qwen3MoeForCausalLM"], **bare, "num_local_experts": 128}).config
    assert (moe.num_experts, moe.num_experts_per_tok, moe.norm_topk_prob, moe.sparse) == (128, 8, False, (True, True))
    mixtral = from_config({"architectures": ["MixtralForCausalLM"], **bare, "num_local_experts": 8}).config
    assert (mixtral.num_experts_per_tok, mixtral.num_key_value_heads, mixtral.windows) == (2, 8, (0, 0))
    assert mixtral.rope(0).inv_freq[1] == pytest.approx(1e6 ** (-1 / 8))
    v3 = from_config({"architectures": ["DeepseekV3ForCausalLM"], **bare, "num_hidden_layers": 4}).config
    assert (v3.n_routed_experts, v3.n_group, v3.topk_group, v3.routed_scaling_factor) == (256, 8, 4, 2.5)
    assert (v3.first_k_dense_replace, v3.q_lora_rank, v3.head_dim, v3.norm_topk_prob) == (3, 1536, 64, True)
    v2 = from_config({"architectures": ["DeepseekV2ForCausalLM"], **bare, "num_experts_per_tok": 6}).config
    assert (v2.n_routed_experts, v2.n_group, v2.n_shared_experts, v2.first_k_dense_replace) == (64, 0, 2, 0)
    glm = from_config({"architectures": ["Glm4MoeForCausalLM"], **bare}).config
    assert (glm.n_routed_experts, glm.num_experts_per_tok, glm.n_shared_experts, glm.n_group) == (128, 8, 1, 1)
    assert (glm.moe_intermediate_size, glm.first_k_dense_replace, glm.norm_topk_prob) == (1408, 1, True)
    assert (glm.num_key_value_heads, glm.routed_scaling_factor, glm.use_qk_norm) == (8, 1.0, False)
    assert (glm.max_position_embeddings, glm.rms_norm_eps, len(glm.rope(0).inv_freq)) == (131072, 1e-5, 4)
    oss = from_config({"architectures": ["GptOssForCausalLM"], **bare, "num_local_experts": 32}).config
    assert (oss.windows, oss.attention_bias, oss.swiglu_alpha, oss.num_experts_per_tok) == ((128, 0), True, 1.702, 4)
    assert oss.rope(0).factor == pytest.approx(1.3466, abs=1e-4)


def test_sparse_layers_of_qwen3_moe():
    def sparse(**overrides):
        return from_config({**MOE, "num_hidden_layers": 4, **overrides}).config.sparse

    assert sparse(mlp_only_layers=[1]) == (True, False, True, True)
    assert sparse(decoder_sparse_step=2) == (False, True, False, True)
    assert sparse(decoder_sparse_step=2, mlp_only_layers=[3]) == (False, True, False, False)


@pytest.mark.parametrize("form", ["old", "new"])
def test_yarn_scales_deepseeks_scores(form):
    yarn = {"factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096}
    rope = {
        "old": {"rope_theta": 10000, "rope_scaling": {"type": "yarn", **yarn}},
        "new": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, **yarn}},
    }
    c = from_config({**V3, **rope[form]}).config
    assert c.rotary[0].score_factor == pytest.approx((0.1 * math.log(40) + 1) ** 2)
    assert c.rope(0).factor == 1.0
    assert from_config(V3).config.rotary[0].score_factor == 1.0


@pytest.mark.parametrize("form", [{}, {"partial_rotary_factor": 0.25}, {"rope_parameters": {"rope_theta": 10000.0}}])
def test_a_part_of_a_head_has_the_frequencies_of_a_smaller_head(form):
    part = form.get("partial_rotary_factor", 0.5)
    smaller = from_config({**LLAMA, "head_dim": int(32 * part)}).config.rope(0)
    assert from_config({**GLM, **form}).config.rope(0) == smaller


def windows(**overrides):
    return from_config({**QWEN2, "num_hidden_layers": 3, **overrides}).config.windows


def test_windows_of_qwen_layers():
    assert windows(sliding_window=16, max_window_layers=1) == (0, 0, 0)
    assert windows(use_sliding_window=True, sliding_window=16, max_window_layers=1) == (0, 16, 16)
    assert windows(use_sliding_window=True, sliding_window=None, max_window_layers=1) == (0, 0, 0)
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    assert windows(use_sliding_window=True, sliding_window=16, layer_types=types) == (16, 0, 16)


def test_mistral_without_a_window_sees_everything():
    assert from_config({**CONFIGS["mistral"], "sliding_window": None}).config.windows == (0, 0)


def test_layers_of_mistral_alternate_by_layer_types():
    config = {**CONFIGS["mistral"], "sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]}
    assert from_config(config).config.windows == (9, 0)
    with pytest.raises(InputError, match="'sliding_attention' without a sliding_window"):
        from_config({**config, "sliding_window": None})


def test_model_names_its_family_and_context():
    model = from_config(QWEN3)
    assert (model.family, model.context) == ("qwen3", 4096)
    assert model.graph().context == 4096
