"""Rotary embeddings of GGUF files: new keys, old keys, divisors stored as tensors."""

import math

import numpy as np
import pytest
from tiny_gguf import write_tiny

import ellm.models
from ellm.checkpoint import open_checkpoint
from ellm.system.errors import InputError


def rope_of(path) -> dict:
    return open_checkpoint(path).config["rope_scaling"]


@pytest.mark.parametrize(
    "keys, scaling",
    [
        (dict(rope__scaling__type="linear", rope__scaling__factor=4.0), {"rope_type": "linear", "factor": 4.0}),
        (dict(rope__scaling__factor=4.0), {"rope_type": "linear", "factor": 4.0}),
        (dict(rope__scale_linear=2.0), {"rope_type": "linear", "factor": 2.0}),
        (dict(rope__scale_linear=2.0, rope__scaling__factor=4.0), {"rope_type": "linear", "factor": 4.0}),
        (dict(rope__scale_linear=2.0, rope__scaling__type="linear"), {"rope_type": "linear", "factor": 2.0}),
        (dict(rope__scaling__type="none", rope__scaling__factor=4.0), None),
        (dict(rope__scaling__factor=0.0), None),
        (dict(rope__scale_linear=1.0), None),
        (dict(), None),
    ],
)
def test_linear_scaling(tmp_path, keys, scaling):
    """llama.cpp takes a factor without a type for linear, and 0 for none."""
    assert rope_of(write_tiny(tmp_path, **keys)[2]) == scaling


def test_yarn(tmp_path):
    keys = dict(rope__scaling__type="yarn", rope__scaling__factor=4.0)
    scaling = {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 1024,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    }
    assert rope_of(write_tiny(tmp_path, "Qwen2ForCausalLM", **keys)[2]) == scaling
    keys |= dict(rope__scaling__original_context_length=256, rope__scaling__attn_factor=0.5)
    keys |= dict(rope__scaling__yarn_beta_fast=16.0, rope__scaling__yarn_ext_factor=1.0)
    assert rope_of(write_tiny(tmp_path, "Qwen2ForCausalLM", **keys)[2]) == scaling | {
        "original_max_position_embeddings": 256,
        "beta_fast": 16.0,
        "attention_factor": 0.5 * (0.1 * math.log(4.0) + 1.0),
    }


def llama3_divisors(head_dim, theta, factor, low=1.0, high=4.0, original=8192):
    """As llama.cpp's convert_hf_to_gguf.py writes them."""
    divisors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (i / head_dim)
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_scaling_is_recovered_from_its_divisors(tmp_path, factor):
    extra = {"rope_freqs.weight": llama3_divisors(32, 500000.0, factor)}
    path = write_tiny(tmp_path, extra=extra, config=dict(rope_theta=500000.0))[2]
    assert rope_of(path) == {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


@pytest.mark.parametrize(
    "divisors", [np.linspace(1, 8, 16, dtype=np.float32), np.zeros(16, np.float32), np.full(16, np.nan, np.float32)]
)
def test_other_divisors_are_refused(tmp_path, divisors):
    path = write_tiny(tmp_path, extra={"rope_freqs.weight": divisors}, config=dict(rope_theta=500000.0))[2]
    with pytest.raises(InputError, match=r"rope_freqs.weight holds other divisors"):
        open_checkpoint(path)


@pytest.mark.parametrize("theta", [-1.0, 0.0, math.nan, math.inf])
@pytest.mark.parametrize("extra", [{}, {"rope_freqs.weight": llama3_divisors(32, 10000.0, 8.0)}])
def test_a_base_that_is_not_positive_is_refused(tmp_path, theta, extra):
    path = write_tiny(tmp_path, extra=extra, rope__freq_base=theta)[2]
    with pytest.raises(InputError, match=r"llama.rope.freq_base is .*, must be a positive number"):
        open_checkpoint(path)


def test_divisors_and_a_factor_are_refused_together(tmp_path):
    extra = {"rope_freqs.weight": llama3_divisors(32, 10000.0, 8.0)}
    path = write_tiny(tmp_path, extra=extra, rope__scaling__factor=2.0)[2]
    with pytest.raises(InputError, match=r"rope_freqs.weight is there together with rope scaling linear by 2"):
        open_checkpoint(path)


def test_longrope_is_in_the_form_of_config_json(tmp_path):
    long, short = np.linspace(1, 40, 16, dtype=np.float32), np.linspace(1, 2, 16, dtype=np.float32)
    extra = {"rope_factors_long.weight": long, "rope_factors_short.weight": short}
    keys = dict(rope__scaling__type="longrope", rope__scaling__original_context_length=256)
    path = write_tiny(tmp_path, extra=extra, rope__scaling__attn_factor=1.19, **keys)[2]
    assert rope_of(path) == {
        "rope_type": "longrope",
        "attention_factor": pytest.approx(1.19),
        "original_max_position_embeddings": 256,
        "long_factor": long.tolist(),
        "short_factor": short.tolist(),
    }


@pytest.mark.parametrize("rotary", [8, 14, 30])
def test_a_part_of_each_head(tmp_path, rotary):
    path = write_tiny(tmp_path, "Qwen3ForCausalLM", rope__dimension_count=rotary)[2]
    assert int(32 * open_checkpoint(path).config["partial_rotary_factor"]) == rotary


def test_llama_rows_are_in_order_for_whole_heads_only(tmp_path):
    with pytest.raises(InputError, match=r"llama.rope.dimension_count is 16, must equal the head size 32"):
        open_checkpoint(write_tiny(tmp_path, rope__dimension_count=16)[2])


def test_scaling_reaches_the_frequencies(tmp_path):
    plain, scaled = (
        ellm.models.from_config(open_checkpoint(write_tiny(tmp_path, **keys)[2]).config).config.rope(0)
        for keys in ({}, {"rope__scale_linear": 4.0})
    )
    np.testing.assert_allclose(np.array(plain.inv_freq) / 4, scaled.inv_freq, rtol=1e-6)
