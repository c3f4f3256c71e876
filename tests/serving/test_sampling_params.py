"""SamplingParams: what needs no model."""

import numpy as np
import pytest

from ellm import InputError, SamplingParams


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("temperature", 10**400),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("top_k", 1.5),
        ("min_p", -0.1),
        ("min_p", 2),
        ("repeat_penalty", 0.0),
        ("repeat_penalty", 10**400),
        ("max_tokens", 0),
        ("max_tokens", True),
        ("seed", -1),
        ("seed", 1 << 64),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", [1]),
        ("stop", 7),
        ("stop_token_ids", 7),
        ("stop_token_ids", ["<|im_end|>"]),
        ("stop_token_ids", [True]),
        ("ignore_eos", "no"),
    ],
)
def test_a_value_out_of_range_is_named(field, value):
    with pytest.raises(InputError, match=field) as caught:
        SamplingParams(**{field: value})
    assert repr(value) in str(caught.value)


def test_numpys_numbers_do_not_wrap_around():
    params = SamplingParams(
        max_tokens=np.int8(127), min_tokens=np.int8(100), seed=np.uint64((1 << 64) - 1), n=np.int8(2)
    )
    assert [one.seed for one in params.each()] == [(1 << 64) - 1, 0]
    assert params.max_tokens + 100 == 227 and params.min_tokens + 100 == 200


def test_params_cannot_be_made_wrong_afterwards():
    with pytest.raises(AttributeError):
        SamplingParams().max_tokens = 0


def test_the_record_holds_what_the_kernel_reads():
    params = SamplingParams(temperature=0.5, top_p=0.9, top_k=-1, min_p=0.1, repeat_penalty=1.2, seed=(1 << 64) - 1)
    record = params.record(4096)
    assert (record["temperature"], record["top_p"], record["min_p"], record["repeat_penalty"]) == (0.5, 0.9, 0.1, 1.2)
    assert (record["top_k"], record["seed"], record["history"]) == (0, (1 << 64) - 1, 4096)


def test_without_a_seed_each_request_has_its_own():
    assert SamplingParams().record(0)["seed"] != SamplingParams().record(0)["seed"]
