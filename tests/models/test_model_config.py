"""config.json is read strictly: each wrong value is one line with the field and the value."""

import pytest
from model_configs import BASE, CONFIGS

from ellm.kernels.errors import InputError
from ellm.models import ARCHITECTURES, from_config

LLAMA, QWEN3 = CONFIGS["llama"], CONFIGS["qwen3"]
QWEN2 = CONFIGS["qwen2"]


@pytest.mark.parametrize(
    "config, message",
    [
        ({}, "architectures: None names no architecture"),
        ({"architectures": []}, "architectures: [] names no architecture"),
        (
            {"architectures": ["GPT2LMHeadModel"]},
            f"architectures: 'GPT2LMHeadModel' is unknown; known are {', '.join(ARCHITECTURES)}",
        ),
        ({**LLAMA, "hidden_size": ...}, "hidden_size: missing"),
        ({**LLAMA, "hidden_size": "72"}, "hidden_size: '72' is not a positive int"),
        ({**LLAMA, "num_hidden_layers": 0}, "num_hidden_layers: 0 is not a positive int"),
        ({**LLAMA, "vocab_size": True}, "vocab_size: True is not a positive int"),
        ({**LLAMA, "num_key_value_heads": 3}, "num_attention_heads: 4 is no multiple of num_key_value_heads 3"),
        ({**LLAMA, "hidden_size": 70}, "hidden_size: 70 is no multiple of num_attention_heads 4"),
        ({**LLAMA, "head_dim": 17}, "head_dim: 17 is odd, rope needs pairs"),
        ({**LLAMA, "hidden_act": "gelu"}, "hidden_act: 'gelu' is not supported, only silu is"),
        ({**LLAMA, "rms_norm_eps": -1.0}, "rms_norm_eps: -1.0 is not a positive number"),
        ({**LLAMA, "tie_word_embeddings": "no"}, "tie_word_embeddings: 'no' is not true or false"),
        ({**LLAMA, "mlp_bias": 1}, "mlp_bias: 1 is not true or false"),
        ({**LLAMA, "rope_theta": "big"}, "rope_theta: 'big' is not a positive number"),
        ({**LLAMA, "rope_scaling": [8]}, "rope_scaling: [8] is not an object"),
        (
            {**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "rope_scaling: rope_type 'dynamic' is not supported, only default, linear, llama3, yarn are",
        ),
        (
            {**LLAMA, "rope_parameters": {"rope_type": "longrope"}},
            "rope_parameters: rope_type 'longrope' is not supported, only default, linear, llama3, yarn are",
        ),
        ({**LLAMA, "rope_scaling": {"type": "linear"}}, "rope_scaling: factor is missing"),
        (
            {**LLAMA, "rope_parameters": {"rope_type": "linear", "factor": 0}},
            "rope_parameters: factor: 0 is not a positive number",
        ),
        ({**LLAMA, "partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5 is not supported, only 1 is"),
        ({**QWEN2, "layer_types": ["full_attention"]}, "layer_types: ['full_attention'] is not a list of 2 layers"),
        (
            {**QWEN2, "layer_types": ["full_attention", "linear_attention"]},
            "layer_types: 'linear_attention' is not full_attention or sliding_attention",
        ),
        (
            {**QWEN2, "layer_types": ["full_attention", "sliding_attention"]},
            "layer_types: 'sliding_attention' without a sliding_window in use",
        ),
        ({**QWEN3, "max_window_layers": -1}, "max_window_layers: -1 is not a number of layers"),
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


def test_model_names_its_family_and_context():
    model = from_config(QWEN3)
    assert (model.family, model.context) == ("qwen3", 4096)
    assert model.graph().context == 4096
