"""Other ways to write the same config.json: null for a default, 4096.0 for 4096, an older name; what has no effect."""

import pytest
from families import FAMILIES
from model_configs import CONFIGS
from tiny import make_config

from ellm.models import ARCHITECTURES, from_config

LLAMA = CONFIGS["llama"]
NO_DEFAULT = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
WITHOUT_GROUPS = {"n_group", "topk_group"}  # no effect where topk_method is greedy
NULL_SAYS_MORE = {  # null is no default but: as many as heads, or none
    "num_key_value_heads",
    "sliding_window",
    "q_lora_rank",
}


def same(one, other) -> bool:
    """Whether two configs describe the same model."""
    models = [from_config(one), from_config(other)]
    graphs = [[node for _, node in model.graph().items()] for model in models]
    return models[0].config == models[1].config and graphs[0] == graphs[1]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_null_stands_for_a_default(name):
    config = make_config(name)
    for field in sorted(config.keys() - NO_DEFAULT - NULL_SAYS_MORE - {"architectures", "model_type"}):
        left_out = {other: value for other, value in config.items() if other != field}
        try:
            wanted = from_config(left_out).config
        except Exception as error:
            with pytest.raises(type(error)):
                from_config({**config, field: None})
        else:
            assert str(from_config({**config, field: None}).config) == str(wanted), field


@pytest.mark.parametrize(
    "form",
    [
        {"rope_scaling": None, "rope_parameters": None, "rope_theta": None},
        {"rope_scaling": {}},
        {"rope_parameters": {}},
        {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 4]}},
        {"rope_scaling": {"rope_type": None, "type": "default"}},
        {"partial_rotary_factor": 1.0},
        {"partial_rotary_factor": None, "rotary_dim": None},
        {"rotary_dim": 18},
        {"quantization_config": None},
        {"quantization_config": {}},
        {"max_position_embeddings": 4096.0, "hidden_size": 72.0},
        {"hidden_act": "swish"},
        {"hidden_act": None, "attention_bias": None, "mlp_bias": None, "tie_word_embeddings": None, "head_dim": None},
        {"architectures": None, "model_type": "llama"},
        {"architectures": [], "model_type": "llama"},
        {"model_type": "something_else"},
        {"auto_map": {"AutoModelForCausalLM": "modeling.MyModel"}},
    ],
)
def test_forms_of_the_same_model(form):
    assert str(from_config({**LLAMA, **form}).config) == str(from_config(LLAMA).config)
    assert from_config({**LLAMA, **form}).family == "llama"


def test_a_count_may_be_written_as_a_float():
    config = {**CONFIGS["qwen2"], "use_sliding_window": True, "sliding_window": 16.0, "max_window_layers": 0.0}
    assert from_config(config).config.windows == (16, 16)


@pytest.mark.parametrize(
    "form, stored",
    [
        ({"dtype": None, "torch_dtype": "float16"}, "f16"),
        ({"dtype": "float16", "torch_dtype": "bfloat16"}, "f16"),
        ({"torch_dtype": "torch.float16"}, "f16"),
        ({"torch_dtype": None}, "bf16"),
        ({"torch_dtype": "auto"}, "bf16"),
    ],
)
def test_spellings_of_the_dtype(form, stored):
    assert from_config({**LLAMA, **form}).precision("model.norm.weight") == stored


def test_fields_that_nothing_reads_are_told():
    config = {**LLAMA, "logit_scale": 0.5, "bos_token_id": 1, "use_cache": True, "unknown": None}
    config["rope_scaling"] = {"type": "linear", "factor": 2.0, "finetuned": True}
    assert from_config(config).unread == ("logit_scale", "rope_scaling: finetuned")


@pytest.mark.parametrize("record", FAMILIES, ids=lambda record: record.model_type)
def test_every_field_that_a_family_is_published_with_is_read(record):
    """But for those that are known to have no effect; the tiny configs have what the published ones have."""
    assert set(from_config(make_config(record.architecture)).unread) <= WITHOUT_GROUPS


@pytest.mark.oracle
@pytest.mark.parametrize("record", FAMILIES, ids=lambda record: record.model_type)
def test_every_field_of_transformers_config_is_read(record):
    from transformers import AutoConfig

    config = make_config(record.architecture)
    del config["model_type"]
    written = AutoConfig.for_model(record.model_type, **config).to_dict()
    assert set(from_config(written).unread) <= WITHOUT_GROUPS
