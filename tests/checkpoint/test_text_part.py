"""The language model of a model that also sees: read as if it were alone."""

import json

import numpy as np
import pytest
from tiny import make_config, random_weights, write_json, write_safetensors, write_tokenizer

from ellm import LLM, InputError
from ellm.compiled import read_source

ARCHITECTURE = "Qwen3ForCausalLM"
IDS = [5, 80, 17, 120, 6, 240]


def write_whole(folder, config, prefix, head, weights):
    """A folder whose tensors have these prefixes, beside those of a vision tower."""
    folder.mkdir()
    write_json(folder / "config.json", config)
    write_tokenizer(folder)
    named = {}
    for name, values in weights.items():
        named[prefix + name.removeprefix("model.") if name.startswith("model.") else head + name] = values
    write_safetensors(folder / "model.safetensors", {**named, "vision_tower.proj.weight": np.zeros((4, 4), np.float16)})
    return folder


def logits(folder):
    with LLM(folder, threads=1) as llm:
        return llm.logits(IDS), llm.runtime.ignored


@pytest.fixture(scope="module")
def weights():
    return random_weights(make_config(ARCHITECTURE, layers=1), 0)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, weights):
    folder = tmp_path_factory.mktemp("alone") / "model"
    return logits(write_whole(folder, make_config(ARCHITECTURE, layers=1), "model.", "", weights))


@pytest.mark.parametrize(
    "prefix, head",
    [
        ("language_model.model.", "language_model."),
        ("model.language_model.", ""),
        ("model.text_model.", ""),
        ("model.", ""),
    ],
)
@pytest.mark.parametrize("part", ["text_config", "llm_config"])
def test_a_part_has_the_logits_of_the_model_alone(tmp_path, alone, weights, part, prefix, head):
    text = make_config(ARCHITECTURE, layers=1)
    del text["torch_dtype"]
    whole = {"architectures": ["SeeingModel"], "model_type": "seeing", "torch_dtype": "bfloat16", part: text}
    found = logits(write_whole(tmp_path / "model", whole, prefix, head, weights))
    assert np.array_equal(found[0], alone[0]) and found[1] == alone[1] == ["vision_tower.proj.weight"]


@pytest.mark.parametrize("inner, outer", [(True, False), (False, True), (None, True)])
def test_a_stored_head_is_used_whatever_the_two_configs_say(tmp_path, alone, weights, inner, outer):
    text = make_config(ARCHITECTURE, layers=1, tie_word_embeddings=inner, architectures=..., model_type="qwen3_vl_text")
    whole = {"architectures": ["SeeingModel"], "tie_word_embeddings": outer, "text_config": text}
    found = logits(write_whole(tmp_path / "model", whole, "model.language_model.", "", weights))
    assert np.array_equal(found[0], alone[0])


def test_a_head_that_is_not_stored_is_the_embedding(tmp_path, weights):
    stored = {name: values for name, values in weights.items() if not name.startswith("lm_head")}
    whole = {"text_config": make_config(ARCHITECTURE, layers=1)}
    tied = make_config(ARCHITECTURE, layers=1, tie_word_embeddings=True)
    found = logits(write_whole(tmp_path / "part", whole, "model.language_model.", "", stored))
    assert np.array_equal(found[0], logits(write_whole(tmp_path / "alone", tied, "model.", "", stored))[0])


def test_a_config_alone_is_enough(tmp_path):
    text = make_config(ARCHITECTURE, layers=1) | {"architectures": None, "model_type": "qwen3_vl_text"}
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Seeing"], "text_config": text}))
    assert read_source(tmp_path).model.family == "qwen3"


def test_fields_of_the_part_may_stand_among_those_of_the_whole(tmp_path):
    config = make_config("Qwen2ForCausalLM") | {"architectures": ["Qwen2VLForConditionalGeneration"]}
    config |= {"model_type": "qwen2_vl", "rope_scaling": {"type": "mrope", "mrope_section": [4, 4, 4]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = read_source(tmp_path).model
    assert (model.family, model.unread) == ("qwen2", ())


def test_an_unknown_part_is_named(tmp_path):
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": {"model_type": "gemma3_text"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"model_type: 'gemma3_text' is unknown; known are llama, "):
        read_source(tmp_path).model  # noqa: B018
