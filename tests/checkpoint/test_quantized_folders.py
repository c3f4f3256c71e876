"""Folders of AWQ, GPTQ, AutoRound, compressed-tensors and FP8: the bits of the numbers that their codes stand for."""

import json

import numpy as np
import pytest
import quantized
import tiny
from packed_logits import packed_logits
from quantized import (
    AWQ,
    BLOCKS,
    CHANNEL,
    FLOAT,
    GPTQ,
    INT8,
    OLD_FP8,
    ROUND,
    awq,
    compressed,
    fp8,
    gptq,
    int_quantized,
    pack_quantized,
    write_pair,
)

from ellm.checkpoint import open_checkpoint
from ellm.compiled import Source, compile_model, read_source
from ellm.system.errors import InputError

F16 = {"number": "F16"}
LLAMA, QWEN, DEEPSEEK = "LlamaForCausalLM", "Qwen3MoeForCausalLM", "DeepseekV3ForCausalLM"


CASES = {  # layout, quantization_config, what the layout is told, what projections are kept in
    "ct": (pack_quantized, compressed(), {}, "int4_32"),
    "ct-f16": (pack_quantized, compressed(), F16, "int4z_32_f16"),
    "ct-128": (pack_quantized, compressed(group_size=128), {"group": 128}, "int4_128"),
    "ct-64": (pack_quantized, compressed(group_size=64), {"group": 64}, "int4_32"),
    "ct-zeros": (pack_quantized, compressed(symmetric=False), {"zeros": True}, "int4z_32"),
    "ct-channel": (pack_quantized, compressed(**CHANNEL), {"group": 0}, "int4_128"),
    "ct-8": (pack_quantized, compressed(num_bits=8), {"bits": 8}, "int8z_32"),
    "ct-3": (pack_quantized, compressed(num_bits=3), {"bits": 3}, "int4z_32"),
    "ct-order": (pack_quantized, compressed(actorder="group"), {"order": True}, "bf16"),
    "ct-f32-scales": (pack_quantized, compressed(), {"scale": "F32"}, "bf16"),
    "ct-odd-groups": (pack_quantized, compressed(group_size=8), {"group": 8}, "bf16"),
    "w8a8": (int_quantized, INT8, {}, "int8z_128"),
    "w8a8-f16": (int_quantized, INT8, F16, "int8z_128_f16"),
    "w8a8-zeros": (int_quantized, INT8, {"zeros": True}, "int8z_128"),
    "w8a8-tensor": (int_quantized, INT8, {"shape": (1,)}, "int8z_128"),
    "fp8-rows": (fp8, FLOAT, {}, "fp8_rows"),
    "fp8-rows-bf16": (fp8, FLOAT, {"scale": "BF16"}, "fp8_rows"),
    "fp8-rows-f16": (fp8, FLOAT, {"number": "F16", "scale": "F16"}, "f16"),
    "fp8-tensor": (fp8, FLOAT, {"shape": ()}, "fp8_rows"),
    "fp8-tensor-old": (fp8, OLD_FP8, {"shape": (1,)}, "fp8_rows"),
    "fp8-tensor-inverse": (fp8, OLD_FP8, {"shape": (), "name": "weight_scale_inv", "scale": "BF16"}, "fp8_rows"),
    "fp8-blocks": (fp8, BLOCKS, {"shape": "blocks"}, "fp8"),
    "awq": (awq, AWQ, F16 | {"group": 64}, "int4z_32_f16"),
    "awq-bf16": (awq, AWQ | {"group_size": 128}, {"group": 128}, "int4z_128"),
    "gptq": (gptq, GPTQ, F16, "int4z_128_f16"),
    "gptq-bf16": (gptq, GPTQ, {}, "int4z_128"),
    "gptq-v2": (gptq, GPTQ | {"checkpoint_format": "gptq_v2"}, F16 | {"v2": True}, "int4z_128_f16"),
    "gptq-channel": (gptq, GPTQ | {"group_size": -1}, F16 | {"group": 0}, "int4z_128_f16"),
    "gptq-8": (gptq, GPTQ | {"bits": 8, "group_size": 32}, F16 | {"bits": 8, "group": 32}, "int8z_32_f16"),
    "gptq-3": (gptq, GPTQ | {"bits": 3}, F16 | {"bits": 3}, "int4z_128_f16"),
    "gptq-2": (gptq, GPTQ | {"bits": 2}, F16 | {"bits": 2}, "int4z_128_f16"),
    "gptq-order": (gptq, GPTQ | {"desc_act": True, "group_size": 32}, F16 | {"order": True, "group": 32}, "f16"),
    "gptq-in-order": (gptq, GPTQ | {"desc_act": True}, F16, "int4z_128_f16"),
    "auto-round": (gptq, ROUND | {"packing_format": "auto_round:auto_gptq"}, F16, "int4z_128_f16"),
    "auto-round-no-zp": (gptq, ROUND | {"packing_format": "auto_round"}, F16 | {"v2": True}, "int4z_128_f16"),
    "auto-round-awq": (awq, ROUND | {"packing_format": "auto_round:auto_awq"}, F16 | {"group": 128}, "int4z_128_f16"),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_numbers(tmp_path, case):
    layout, quantization, options, kept = CASES[case]
    folder, plain = write_pair(tmp_path, LLAMA, layout, quantization, **options)
    found, formats = packed_logits(folder, None)
    assert np.isfinite(found).all() and found.std() > 0.1
    assert formats == {kept, "f32", "f16" if options.get("number") else "bf16"}
    np.testing.assert_array_equal(found, packed_logits(plain, None)[0])


@pytest.mark.parametrize("architecture", [QWEN, DEEPSEEK])
@pytest.mark.parametrize("case", ["ct", "awq", "gptq-order", "fp8-rows", "fp8-rows-f16", "w8a8"])
def test_experts_and_latents(tmp_path, architecture, case):
    """Experts one by one; `kv_b_proj` is read along its rows too, where its scales cannot be kept."""
    layout, quantization, options, kept = CASES[case]
    folder, plain = write_pair(tmp_path, architecture, layout, quantization, **options)
    found, formats = packed_logits(folder, None)
    assert kept in formats
    np.testing.assert_array_equal(found, packed_logits(plain, None)[0])


@pytest.mark.parametrize("architecture, case, kept", [(LLAMA, "ct", ["k_proj"]), (QWEN, "awq", ["up_proj", "v_proj"])])
def test_modules_that_are_not_quantised(tmp_path, architecture, case, kept):
    """The tensors say it, whatever the config does."""
    layout, quantization, options, _ = CASES[case]
    folder, plain = write_pair(tmp_path, architecture, layout, quantization, kept=kept, **options)
    np.testing.assert_array_equal(packed_logits(folder, None)[0], packed_logits(plain, None)[0])


@pytest.mark.parametrize("case", ["gptq-order", "fp8-rows", "w8a8"])
def test_they_become_q4_as_their_numbers_do(tmp_path, case):
    layout, quantization, options, _ = CASES[case]
    folder, plain = write_pair(tmp_path, LLAMA, layout, quantization, **options)
    found, formats = packed_logits(folder, "q4")
    assert "iq4_nl" in formats
    np.testing.assert_array_equal(found, packed_logits(plain, "q4")[0])


def test_tensors_of_a_weight_may_be_in_several_files(tmp_path):
    layout, quantization, options, _ = CASES["awq"]
    folder, plain = write_pair(tmp_path, LLAMA, layout, quantization, shards=5, **options)
    np.testing.assert_array_equal(packed_logits(folder, None)[0], packed_logits(plain, None)[0])


@pytest.mark.parametrize("case", CASES)
def test_the_config_alone_says_the_same(tmp_path, case):
    """But for what only tensors tell: that groups are in order after all, dtypes of scales, bits of some groups."""
    layout, quantization, options, _ = CASES[case]
    folder, _ = write_pair(tmp_path, LLAMA, layout, quantization, **options)
    by_config = read_source(folder, no_weights=True)
    with open_checkpoint(folder) as checkpoint:
        programs = [compile_model(source).program for source in (by_config, Source.of(checkpoint))]
    found, expected = ({weight.name: weight.format for weight in program.weights} for program in programs)
    if case in ("ct-f32-scales", "gptq-in-order"):
        assert found != expected
    else:
        assert found == expected


def test_kimi_within_a_model_that_sees(tmp_path):
    """Experts in int4, all else in bf16, under names that begin with language_model."""
    kept = ("self_attn", "shared_experts", "layers.0.mlp")
    quantization = compressed(ignore=["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", r"re:.*layers\.0\.mlp.*"])
    folder, plain = write_pair(tmp_path, DEEPSEEK, pack_quantized, quantization, kept=kept, first_k_dense_replace=1)
    expected = packed_logits(plain, None)[0]
    text = json.loads((folder / "config.json").read_text()) | {"model_type": "kimi_k2", "architectures": None}
    tiny.write_json(
        folder / "config.json",
        {
            "architectures": ["KimiK25ForConditionalGeneration"],
            "model_type": "kimi_k25",
            "text_config": text,
            "vision_config": {},
        },
    )
    tensors = quantized.read(folder / "model.safetensors")
    tiny.write_weights(folder, {f"language_model.{name}": values for name, values in tensors.items()}, 1)
    found, formats = packed_logits(folder, None)
    assert formats == {"int4_32", "bf16", "f32"}
    np.testing.assert_array_equal(found, expected)
    program = compile_model(read_source(folder, no_weights=True)).program
    assert {
        weight.format for weight in program.weights if "experts" in weight.name and "shared" not in weight.name
    } == {"int4_32"}


def test_bits_may_differ_by_module(tmp_path):
    """AutoRound's extra_config, of which the tensors say all that counts."""
    folder, plain = write_pair(tmp_path, LLAMA, gptq, ROUND, **F16)
    others, worth = gptq(np.random.default_rng(7), 128, 256, "F16", bits=8, group=32)
    name = "model.layers.1.mlp.down_proj."
    tensors = quantized.read(folder / "model.safetensors")
    tiny.write_weights(folder, tensors | {name + suffix: values for suffix, values in others.items()}, 1)
    numbers = quantized.read(plain / "model.safetensors") | {f"{name}weight": worth.astype(np.float16)}
    tiny.write_weights(plain, numbers, 1)
    extra = {"extra_config": {name.removesuffix("."): {"bits": 8, "group_size": 32}}}
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": ROUND | extra}
    tiny.write_json(folder / "config.json", config)
    found, formats = packed_logits(folder, None)
    assert {"int4z_128_f16", "int8z_32_f16"} <= formats
    np.testing.assert_array_equal(found, packed_logits(plain, None)[0])
    program = compile_model(read_source(folder, no_weights=True)).program
    assert {weight.name: weight.format for weight in program.weights}[f"{name}weight"] == "int8z_32_f16"


Q = "model.layers.1.self_attn.q_proj."


def broken(tmp_path, case, change, **config):
    """The error of a folder after `change` of its tensors and other fields of `quantization_config`."""
    layout, quantization, options, _ = CASES[case]
    folder, _ = write_pair(tmp_path, LLAMA, layout, quantization | config, **options)
    tensors = quantized.read(folder / "model.safetensors")
    change(tensors)
    tiny.write_weights(folder, tensors, 1)
    with pytest.raises(InputError) as error:
        packed_logits(folder, None)
    assert "\n" not in str(error.value)
    return str(error.value)


def replaced(suffix, make):
    return lambda tensors: tensors.update({Q + suffix: make(tensors[Q + suffix])})


def removed(suffix):
    return lambda tensors: tensors.pop(Q + suffix)


@pytest.mark.parametrize(
    "case, change, words",
    [
        ("ct", removed("weight_scale"), f"{Q}weight_packed: {Q}weight_scale, which belongs to it, is missing"),
        ("awq", removed("qzeros"), f"{Q}qweight: {Q}qzeros, which belongs to it, is missing"),
        ("gptq", removed("scales"), f"{Q}qweight: {Q}scales, which belongs to it, is missing"),
        ("ct", removed("weight_packed"), f"tensor {Q}weight is missing"),
        ("ct", replaced("weight_scale", lambda x: x[:-1]), f"{Q}weight_scale: shape is [127, 4], with {Q}w"),
        ("ct", replaced("weight_scale", lambda x: x.astype(np.int8)), f"{Q}weight_scale: dtype is I8, must be F32 or"),
        ("ct-zeros", replaced("weight_zero_point", lambda x: x[:, 1:]), f"{Q}weight_zero_point: shape is [16, 3]"),
        ("ct", replaced("weight_packed", lambda x: x[:, :-1]), "shape is [128, 120], the configuration needs ["),
        ("ct", replaced("weight_packed", lambda x: x[:0]), f"{Q}weight_packed: shape is [0, 16], must be"),
        ("awq", replaced("qzeros", lambda x: x[:, 1:]), f"{Q}qzeros: shape is [2, 15], with {Q}q"),
        ("awq", replaced("scales", lambda x: x[:, 1:]), f"{Q}scales: shape is [2, 127], with {Q}q"),
        ("awq", replaced("qweight", lambda x: x[1:]), "shape is [128, 127], the configuration needs [128, 128]"),
        ("gptq", replaced("qzeros", lambda x: x[:, 1:]), f"{Q}qzeros: shape is [1, 15], with {Q}q"),
        ("gptq-order", replaced("g_idx", lambda x: x[1:]), f"{Q}g_idx: shape is [127], with {Q}q"),
        ("gptq-order", replaced("g_idx", lambda x: 0 * x + 4), f"{Q}g_idx: holds 4, must be 128 numbers from 0 to 3"),
        ("gptq-order", replaced("g_idx", lambda x: x - 1), f"{Q}g_idx: holds -1, must be 128 numbers from 0 to 3"),
        ("gptq-order", replaced("g_idx", np.float32), f"{Q}g_idx: dtype is F32, must be I32"),
        ("w8a8", replaced("weight_scale", lambda x: x[1:]), f"{Q}weight_scale: shape is [127, 1], with {Q}w"),
        ("fp8-rows", replaced("weight_scale", lambda x: x[1:]), f"{Q}weight_scale: shape is [127, 1], with {Q}w"),
        ("fp8-rows", replaced("weight", lambda x: x | 0x7F), f"{Q}weight: holds NaN (code 0x7f or 0xff)"),
        ("fp8-rows", replaced("weight_scale", lambda x: x * np.inf), f"{Q}weight_scale: holds inf, a scale must be"),
        ("fp8-rows-f16", replaced("weight", lambda x: x | 0x7F), f"{Q}weight: is nan where it is scaled"),
        ("ct-order", replaced("weight_scale", lambda x: x | 0x7F80), f"{Q}weight_packed: is nan where it is scaled"),
        ("awq", replaced("scales", lambda x: x * np.inf), f"{Q}scales: holds inf, a scale must be"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_one_line(tmp_path, case, change, words):
    assert words in broken(tmp_path, case, change)


@pytest.mark.parametrize(
    "case, config, words",
    [
        ("ct", {"quant_method": "hqq"}, "quant_method: 'hqq' is not supported, only fp8, "),
        ("ct", {"format": "nvfp4-pack-quantized"}, "format: 'nvfp4-pack-quantized' with weights of type 'int' is not"),
        ("ct", {"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme: {'num_bits': 8} is not supported"),
        ("ct", {"transform_config": {"u": 1}}, "transform_config: {'u': 1} is not supported"),
        ("ct", {"config_groups": {}}, "config_groups: has 0 groups, 1 to 64 are plausible"),
        ("ct", {"config_groups": {"a": 1}}, "config_groups: has 0 groups, 1 to 64 are plausible"),
        ("ct", {"ignore": [1]}, "ignore: [1] is not a list of names"),
        ("ct", compressed(group_size=0), "weights: group_size: 0 is not a positive int"),
        ("ct", compressed(group_size=-7), "weights: group_size: -7 is not a positive int"),
        ("ct", compressed(group_size=1 << 40), "weights: group_size: 1099511627776 is more than"),
        ("ct", compressed(num_bits=1 << 40), "weights: num_bits: 1099511627776 is more than"),
        ("ct", compressed(num_bits=9), "weights: num_bits: 9 is not from 2 to 8"),
        ("gptq", {"bits": 5}, "bits: 5 is not supported, only 2, 3, 4, 8 are"),
        ("gptq", {"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin', known are gptq, gptq_v2"),
        ("awq", {"version": "gemv"}, "version: 'gemv' is not supported, only gemm is"),
        ("auto-round", {"packing_format": "auto_round:fp8"}, "packing_format is 'auto_round:fp8', known are"),
        ("auto-round", {"rotation_config": {"a": 1}}, "rotation_config: {'a': 1} is not supported"),
        ("fp8-blocks", {"quant_method": "fp8", "weight_block_size": [64, 64]}, "weight_block_size: [64, 64] is not ["),
    ],
)  # fmt: skip
def test_configs_that_are_not_supported_are_one_line(tmp_path, case, config, words):
    assert words in broken(tmp_path, case, lambda tensors: None, **config)


@pytest.mark.parametrize(
    "pattern, words",
    [
        ("re:(a+)+b", "is a regular expression that could take long"),
        ("re:(a|aa)*b", "is a regular expression that could take long"),
        ("re:.*.*.*.*.*b", "is a regular expression that could take long"),
        ("re:(a", "is no regular expression: missing )"),
        ("re:" + "a" * 3000, "has 3000 characters"),
    ],
)
def test_patterns_that_cannot_be_used_matter_only_without_weights(tmp_path, pattern, words):
    folder, plain = write_pair(tmp_path, LLAMA, pack_quantized, compressed(ignore=[pattern]))
    np.testing.assert_array_equal(packed_logits(folder, None)[0], packed_logits(plain, None)[0])
    with pytest.raises(InputError, match="quantization_config: ignore: ") as error:
        compile_model(read_source(folder, no_weights=True))
    assert words in str(error.value)
