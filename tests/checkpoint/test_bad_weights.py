"""Checkpoints that do not fit the program: one line that names the weight and both values."""

import os

import numpy as np
import pytest
from packed_weights import (
    floats,
    load,
    matrix,
    program,
    random_fp8,
    random_mxfp4,
    random_scales,
    source,
    write_checkpoint,
)

from ellm.checkpoint import open_checkpoint
from ellm.system.errors import InputError

CORES = sorted(os.sched_getaffinity(0))[:2]
RANDOM = np.random.default_rng(3)
ROWS, K, EXPERTS = 40, 160, 3
NAMED = "experts.{expert}.w", [ROWS, K]


def refusal(folder, tensors, weight) -> str:
    """The message that loading ends with, from the name of the folder on."""
    with open_checkpoint(write_checkpoint(folder, tensors)) as checkpoint, pytest.raises(InputError) as caught:
        load(program([weight]), checkpoint, CORES)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message.split(str(folder))[1]


def weight(format, stored, experts=None):
    return matrix("w", [stored], [[0, 0, ROWS, 0]], K, 3, format=format, experts=experts)


def fp8_source(name="w"):
    return source(name, [ROWS, K], (f"{name}_scale_inv", [1, 2]))


def stacked_source():
    scales = "w_scales", [EXPERTS, ROWS, K // 32]
    return source("w_blocks", [EXPERTS, ROWS, K // 32, 16], scales, stacked=True)


def fp8_tensors():
    return {"w": ("F8_E4M3", random_fp8(RANDOM, ROWS, K)), "w_scale_inv": ("F32", random_scales(RANDOM, ROWS, K))}


def mxfp4_tensors(experts=EXPERTS):
    blocks, scales = random_mxfp4(RANDOM, experts, ROWS, K)
    return {"w_blocks": ("U8", blocks), "w_scales": ("U8", scales)}


def named_experts(count):
    return {f"experts.{expert}.w": ("BF16", np.zeros((ROWS, K), np.uint16)) for expert in range(count)}


@pytest.mark.parametrize(
    "stored, format, words",
    [
        ("BF16", "fp8", "w: dtype is BF16, the program was compiled for fp8"),
        ("F8_E4M3", "bf16", "w: dtype is F8_E4M3, the program was compiled for bf16"),
        ("F8_E4M3", "mxfp4", "w: dtype is F8_E4M3, the program was compiled for mxfp4"),
        ("F16", "bf16", "w: dtype is F16, the program was compiled for bf16"),
        ("F32", "f16", "w: dtype is F32, the program was compiled for f16"),
        ("U8", "bf16", "w: dtype is U8, the program was compiled for bf16"),
    ],
)
def test_other_precision(tmp_path, stored, format, words):
    tensors = {"w": (stored, np.zeros((ROWS, K)))}
    assert words in refusal(tmp_path, tensors, weight(format, ("w", [ROWS, K])))


def test_unknown_dtype(tmp_path, monkeypatch):
    monkeypatch.setitem(write_checkpoint.__globals__["DTYPES"], "I8", "i1")
    tensors = {"w": ("I8", np.zeros((ROWS, K)))}
    message = refusal(tmp_path, tensors, weight("bf16", ("w", [ROWS, K])))
    assert "w: dtype is I8, ellm reads F32, F16, BF16, F8_E4M3, U8" in message


def test_vectors_have_no_scales(tmp_path):
    vector = floats("b", 16, sources=(source("b", [16]),))
    message = refusal(tmp_path, {"b": ("F8_E4M3", np.zeros(16))}, vector)
    assert "b: dtype is F8_E4M3, ellm reads vectors as F32, F16, BF16" in message


def test_missing_expert(tmp_path):
    tensors = named_experts(EXPERTS)
    del tensors["experts.1.w"]
    message = refusal(tmp_path, tensors, weight("bf16", NAMED, EXPERTS))
    assert "tensor experts.1.w is missing: it has 2 of the 3 experts that the configuration needs" in message


def test_surplus_experts(tmp_path):
    message = refusal(tmp_path, named_experts(EXPERTS + 2), weight("bf16", NAMED, EXPERTS))
    assert "has tensor experts.3.w, the configuration has 3 experts only" in message


def test_one_expert_of_another_shape(tmp_path):
    tensors = named_experts(EXPERTS) | {"experts.2.w": ("BF16", np.zeros((ROWS, K + 1), np.uint16))}
    message = refusal(tmp_path, tensors, weight("bf16", NAMED, EXPERTS))
    assert "experts.2.w: shape is [40, 161], the configuration needs [40, 160]" in message


def test_another_shape_than_that_of_the_models_line(tmp_path):
    stored = source("w", [ROWS, K], line="models/llama.py:9")
    message = refusal(tmp_path, {"w": ("BF16", np.zeros((ROWS, K + 1), np.uint16))}, weight("bf16", stored))
    assert message.endswith("w: shape is [40, 161], the configuration needs [40, 160], at models/llama.py:9")


@pytest.mark.parametrize("experts", [EXPERTS - 1, EXPERTS + 1])
def test_stack_of_other_experts(tmp_path, experts):
    message = refusal(tmp_path, mxfp4_tensors(experts), weight("mxfp4", stacked_source(), EXPERTS))
    assert f"w_blocks: shape is [{experts}, 40, 5, 16], the configuration needs [3, 40, 5, 16]" in message


@pytest.mark.parametrize(
    "scales, words",
    [
        (None, "tensor w_scale_inv is missing"),
        (("F32", np.ones((2, 1))), "w_scale_inv: shape is [2, 1], the configuration needs [1, 2]"),
        (("F32", np.ones(2)), "w_scale_inv: shape is [2], the configuration needs [1, 2]"),
        (("U8", np.ones((1, 2))), "w_scale_inv: dtype is U8, scales of F8_E4M3 are F32, BF16, F16"),
        (("F8_E4M3", np.ones((1, 2))), "w_scale_inv: dtype is F8_E4M3, scales of F8_E4M3 are F32"),
    ],
)
@pytest.mark.parametrize("format", ["fp8", "bf16"])
def test_scales_of_fp8(tmp_path, scales, words, format):
    tensors = fp8_tensors()
    del tensors["w_scale_inv"]
    if scales:
        tensors["w_scale_inv"] = scales
    assert words in refusal(tmp_path, tensors, weight(format, fp8_source()))


@pytest.mark.parametrize(
    "scales, words",
    [
        (None, "tensor w_scales is missing"),
        (("U8", np.ones((3, 40, 4))), "w_scales: shape is [3, 40, 4], the configuration needs [3, 40, 5]"),
        (("BF16", np.ones((3, 40, 5))), "w_scales: dtype is BF16, scales of U8 are U8"),
    ],
)
def test_scales_of_mxfp4(tmp_path, scales, words):
    tensors = mxfp4_tensors()
    del tensors["w_scales"]
    if scales:
        tensors["w_scales"] = scales
    assert words in refusal(tmp_path, tensors, weight("mxfp4", stacked_source(), EXPERTS))


@pytest.mark.parametrize("code", [0x7F, 0xFF])
@pytest.mark.parametrize("row, column", [(0, 0), (ROWS - 1, K - 1), (17, 31)])
@pytest.mark.parametrize("format", ["fp8", "bf16"])
def test_fp8_nan(tmp_path, code, row, column, format):
    tensors = fp8_tensors()
    tensors["w"][1][row, column] = code
    message = refusal(tmp_path, tensors, weight(format, fp8_source()))
    assert "w: holds NaN (code 0x7f or 0xff), a weight must be a number" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_fp8_scale_that_is_no_number(tmp_path, value):
    tensors = fp8_tensors()
    tensors["w_scale_inv"][1][0, 1] = value
    message = refusal(tmp_path, tensors, weight("fp8", fp8_source()))
    assert f"w_scale_inv: holds {value}, a scale must be finite" in message


def test_mxfp4_scale_that_is_no_number(tmp_path):
    tensors = mxfp4_tensors()
    tensors["w_scales"][1][2, 39, 4] = 255
    message = refusal(tmp_path, tensors, weight("mxfp4", stacked_source(), EXPERTS))
    assert "w_scales: holds 255, a scale must be finite" in message


def test_truncated_bank(tmp_path):
    """A shard that has become shorter since it was opened."""
    folder = write_checkpoint(tmp_path, named_experts(EXPERTS))
    with open_checkpoint(folder) as checkpoint:
        os.truncate(folder / "model.safetensors", checkpoint.tensors["experts.1.w"].offset + 100)
        with pytest.raises(InputError, match=r"experts\.\d\.w: the file ends at byte"):
            load(program([weight("bf16", NAMED, EXPERTS)]), checkpoint, CORES)


def test_precision(tmp_path):
    tensors = mxfp4_tensors() | fp8_tensors() | named_experts(2)
    tensors |= {"half": ("F16", np.zeros((2, 2))), "single": ("F32", np.zeros((2, 2)))}
    expected = {
        "w": "fp8", "w_blocks": "mxfp4", "half": "f16", "single": "bf16", "experts.1.w": "bf16",
        "experts.{expert}.w": "bf16", "nowhere": "bf16",
    }  # fmt: skip
    with open_checkpoint(write_checkpoint(tmp_path, tensors)) as checkpoint:
        assert {name: checkpoint.precision(name) for name in expected} == expected
    del tensors["w"]
    with open_checkpoint(write_checkpoint(tmp_path, tensors)) as checkpoint:
        assert checkpoint.precision("w") == "mxfp4"


def test_ignored(tmp_path):
    tensors = fp8_tensors() | named_experts(EXPERTS) | {"model.layers.61.eh_proj.weight": ("F32", np.zeros((2, 2)))}
    bank = weight("bf16", NAMED, EXPERTS)
    with open_checkpoint(write_checkpoint(tmp_path, tensors)) as checkpoint:
        used = program([bank, weight("fp8", fp8_source())])
        assert checkpoint.ignored(used) == ["model.layers.61.eh_proj.weight"]
        used.weights.pop()
        assert checkpoint.ignored(used) == ["model.layers.61.eh_proj.weight", "w", "w_scale_inv"]
