"""StructuredOutputs and the new fields of SamplingParams: what needs no model."""

import json

import numpy as np
import pytest

from ellm import InputError, SamplingParams, StructuredOutputs
from ellm.kernels.contract import TOKEN_NUMBER
from ellm.serving.structured import MOST_BYTES


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "one of json, regex, choice and grammar, none is given"),
        ({"json": {}, "regex": "a"}, "json and regex are given"),
        ({"regex": ""}, "regex must be a text"),
        ({"grammar": 7}, "grammar must be a text that is not empty, not 7"),
        ({"choice": []}, "choice must be a list of texts"),
        ({"choice": "yes"}, "choice must be a list of texts"),
        ({"choice": ["a", ""]}, "choice must be a list of texts"),
        ({"choice": [1]}, "choice must be a list of texts"),
        ({"json": 5}, "json must be a JSON schema, not 5"),
        ({"json": {"a": {1, 2}}}, "json is no JSON"),
        ({"regex": "a" * (MOST_BYTES + 1)}, f"regex has {MOST_BYTES + 1} bytes, at most {MOST_BYTES} are allowed"),
        ({"choice": ["x" * 1000] * 70}, f"at most {MOST_BYTES} are allowed"),
    ],
)
def test_what_is_wrong_is_named(given, message):
    with pytest.raises(InputError, match=message):
        StructuredOutputs(**given)


def test_a_schema_without_end_is_refused():
    schema = {}
    schema["properties"] = {"a": schema}
    with pytest.raises(InputError, match="json is no JSON"):
        StructuredOutputs(json=schema)


def test_text():
    assert StructuredOutputs(choice=("a", "b")).text == '["a", "b"]'
    assert json.loads(StructuredOutputs(json={"type": "object"}).text) == {"type": "object"}
    assert StructuredOutputs(json='{"type":"object"}').text == '{"type":"object"}'


def test_biases_come_before_ends():
    params = SamplingParams(logit_bias={7: 1.5, 3: -100})
    assert params.biases([2]).tolist() == [(7, 1.5), (3, -100.0), (2, -np.inf)]
    assert SamplingParams().biases([]).dtype == TOKEN_NUMBER


def test_each_answer_has_its_seed():
    assert [one.seed for one in SamplingParams(n=3, seed=(1 << 64) - 1).each()] == [(1 << 64) - 1, 0, 1]
    assert [one.seed for one in SamplingParams(n=2).each()] == [None, None]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 0}, "n must be a whole number from 1 to 16, not 0"),
        ({"n": 17}, "n must be a whole number from 1 to 16, not 17"),
        ({"logprobs": 21}, "logprobs must be a whole number from 0 to 20, or None, not 21"),
        ({"prompt_logprobs": -1}, "prompt_logprobs must be a whole number from 0 to 20, or None, not -1"),
        ({"presence_penalty": 2.1}, "presence_penalty must be a number from -2 to 2, not 2.1"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty must be a number from -2 to 2, not nan"),
        ({"min_tokens": -1}, "min_tokens must be a whole number of at least 0, not -1"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens is 5, more than max_tokens, which is 4"),
        ({"logit_bias": [1]}, "logit_bias must map token ids to numbers"),
        ({"logit_bias": {"7": 1}}, "'7' is none"),
        ({"logit_bias": {7: 101}}, "logit_bias of token 7 must be a number from -100 to 100, not 101"),
        ({"logit_bias": {7: float("nan")}}, "not nan"),
        ({"logit_bias": dict.fromkeys(range(1025), 1)}, "logit_bias has 1025 entries, at most 1024 are allowed"),
        ({"include_stop_str_in_output": 1}, "include_stop_str_in_output must be True or False, not 1"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs must be StructuredOutputs"),
        ({"top_k": 1 << 31}, "top_k"),
    ],
)
def test_a_field_out_of_range_is_named(fields, message):
    with pytest.raises(InputError, match=message):
        SamplingParams(**fields)
