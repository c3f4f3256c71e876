"""What generation_config.json and general.sampling of GGUF files ask for."""

import json

import pytest
import tiny
import tiny_gguf

from ellm import LLM, InputError, SamplingParams
from ellm.checkpoint import open_checkpoint
from ellm.serving.model_sampling import read_sampling


def read(**generation):
    return read_sampling(generation, "f.json", 100)


@pytest.mark.parametrize(
    ("generation", "fields"),
    [
        ({}, {}),
        ({"eos_token_id": 2, "temperature": None, "do_sample": None}, {}),
        ({"do_sample": True}, {"temperature": 1.0}),
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.1},
            {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.1},
        ),
        ({"do_sample": True, "temperature": 0.7, "top_k": None}, {"temperature": 0.7}),
        ({"do_sample": False, "temperature": 0.6}, {"temperature": 0.0}),
        ({"temperature": 0.6, "top_p": 0.9}, {"temperature": 0.0}),
        ({"do_sample": False}, {"temperature": 0.0}),
        ({"repetition_penalty": 1.05, "max_new_tokens": 7}, {"repeat_penalty": 1.05, "max_tokens": 7}),
        ({"stop_strings": ["END"]}, {"stop": ["END"]}),
        ({"general.sampling.top_k": 64, "general.sampling.temp": 1.5}, {"top_k": 64, "temperature": 1.5}),
        ({"presence_penalty": 1.5, "frequency_penalty": 0.5}, {"presence_penalty": 1.5, "frequency_penalty": 0.5}),
        ({"general.sampling.penalty_repeat": 1.1}, {"temperature": 1.0, "repeat_penalty": 1.1}),
    ],
    ids=repr,
)
def test_what_is_asked_for(generation, fields):
    assert read(**generation).fields == fields


def test_settings_for_drawing_that_do_not_count():
    sampling = read(do_sample=False, temperature=0.6, top_p=1.0, top_k=50)
    assert sampling.unused == {"temperature": 0.6, "top_k": 50}
    assert read(do_sample=True, temperature=0.6).unused == {}


def test_settings_that_ellm_does_not_have():
    asked = {
        "num_beams": 4,
        "no_repeat_ngram_size": 3,
        "typical_p": 0.9,
        "suppress_tokens": [1],
        "forced_bos_token_id": 0,
        "encoder_repetition_penalty": 1.2,
        "min_new_tokens": 5,
        "max_length": 50,
        "general.sampling.xtc_probability": 0.1,
    }
    assert read(**asked).not_done == asked
    neutral = {"num_beams": 1, "typical_p": 1.0, "suppress_tokens": [], "no_repeat_ngram_size": 0, "min_length": 0}
    assert read(**neutral, max_length=100, use_cache=True, transformers_version="5").not_done == {}
    window = {"general.sampling.penalty_last_n": 64}
    assert read(**window).not_done == {}
    assert read(**window, **{"general.sampling.penalty_repeat": 1.1}).not_done == window


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "hot"),
        ("temperature", -1),
        ("temperature", float("nan")),
        ("temperature", True),
        ("top_p", 1.5),
        ("top_k", 2.5),
        ("top_k", -2),
        ("min_p", [0.1]),
        ("repetition_penalty", 0),
        ("max_new_tokens", 0),
        ("stop_strings", [3]),
        ("do_sample", "yes"),
        ("general.sampling.temp", "hot"),
    ],
)
def test_values_that_make_no_sense(name, value):
    with pytest.raises(InputError) as caught:
        read(**{name: value})
    assert str(caught.value).startswith(f"f.json: {name} is {value!r}") and "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    folder = tiny.write_checkpoint(tmp_path_factory.mktemp("asking"))
    generation = {"do_sample": True, "temperature": 5.0, "top_k": 1, "max_new_tokens": 3}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    with LLM(folder, threads=1) as llm:
        yield llm


def test_requests_without_params_are_sampled_as_the_model_asks(asking):
    assert asking.get_default_sampling_params() == SamplingParams(temperature=5.0, top_k=1, max_tokens=3)
    greedy = asking.generate("the", SamplingParams(temperature=0, max_tokens=3))[0].token_ids
    assert [one.token_ids for one in asking.generate(["the", "the"])] == [greedy] * 2
    with asking.stream("the") as stream:
        list(stream)
    assert stream.output.token_ids == greedy
    messages = [{"role": "user", "content": "the"}]
    assert asking.chat(messages)[0].token_ids == asking.chat(messages, SamplingParams(0, max_tokens=3))[0].token_ids


def test_params_that_are_given_count_as_they_are(asking):
    free = SamplingParams(temperature=5.0, seed=3, max_tokens=20, ignore_eos=True)
    drawn = asking.generate("the", free)[0].token_ids
    assert len(drawn) == 20
    assert drawn != asking.generate("the", SamplingParams(0, max_tokens=20, ignore_eos=True))[0].token_ids


def test_a_bad_value_is_refused_before_weights_are_loaded(tmp_path):
    folder = tiny.write_checkpoint(tmp_path)
    (folder / "generation_config.json").write_text('{"temperature": "hot"}')
    seen = []
    with pytest.raises(InputError, match=r"generation_config.json: temperature is 'hot': temperature must be"):
        LLM(folder, progress=lambda *_: seen.append(1))
    assert not seen


def test_gguf_files_say_it_in_their_metadata(tmp_path):
    def add(writer):
        tiny_gguf.add_byte_level(writer)
        writer.add_float32("general.sampling.temp", 0.5)
        writer.add_int32("general.sampling.top_k", 20)
        writer.add_int32("general.sampling.mirostat", 2)

    config = tiny.make_config("LlamaForCausalLM", vocab=268)
    path = tiny_gguf.write_gguf(tmp_path / "x.gguf", config, tiny_gguf.random_floats(config), tokenizer=add)
    with open_checkpoint(path) as checkpoint:
        sampling = read_sampling(checkpoint.generation, checkpoint.generation_file, 100)
    assert sampling.fields == {"temperature": 0.5, "top_k": 20}
    assert sampling.not_done == {"general.sampling.mirostat": 2}
