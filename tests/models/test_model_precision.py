"""What a config says that a checkpoint's tensors are stored in, and what follows: formats, scales, what is joined."""

import pytest
from model_configs import CONFIGS

from ellm.dsl import compile
from ellm.models import from_config

FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
MXFP4 = {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}}


def compiled(name, precision=None, **overrides):
    return compile(from_config({**CONFIGS[name], **overrides}, precision).graph(), context=64)


def formats(program) -> dict[str, str]:
    return {entry.name: entry.format for entry in program.weights if entry.layout == "tiles"}


@pytest.mark.parametrize("field, dtype, stored", [("torch_dtype", "float16", "f16"), ("dtype", "bfloat16", "bf16")])
def test_plain_weights_are_of_the_configs_dtype(field, dtype, stored):
    assert set(formats(compiled("qwen3", **{field: dtype})).values()) == {stored}


def test_fp8_is_every_matrix_but_head_embedding_and_routers():
    found = formats(compiled("deepseek_v3", **FP8))
    plain = {name for name, stored in found.items() if stored == "bf16"}
    kept = {"model.embed_tokens.weight", "lm_head.weight", "model.layers.1.mlp.gate.weight"}
    transposed = {"model.layers.0.self_attn.kv_b_proj.weight", "model.layers.1.self_attn.kv_b_proj.weight"}
    assert kept <= plain <= kept | transposed


def test_modules_not_to_convert_stay_plain():
    quantization = FP8["quantization_config"] | {
        "modules_to_not_convert": ["model.layers.0", "model.layers.*.self_attn"]
    }
    found = formats(compiled("llama", quantization_config=quantization))
    assert {name for name, stored in found.items() if stored == "fp8"} == {
        "model.layers.1.mlp.{gate_proj,up_proj}.weight",
        "model.layers.1.mlp.down_proj.weight",
    }


def test_mxfp4_is_the_experts_alone():
    found = formats(compiled("gpt_oss", **MXFP4))
    assert {name for name, stored in found.items() if stored == "mxfp4"} == {
        f"model.layers.{layer}.mlp.experts.{matrix}" for layer in (0, 1) for matrix in ("gate_up_proj", "down_proj")
    }


def test_bytes_are_told_by_format():
    program = compiled("gpt_oss", **MXFP4)
    bytes_of = dict.fromkeys(program.weight_bytes, 0)
    for entry in program.weights:
        bytes_of[entry.precision] += entry.bytes
    assert program.weight_bytes == bytes_of and set(bytes_of) == {"bf16", "mxfp4", "f32"}
    assert sum(bytes_of.values()) <= program.weights_bytes
    # Four of seven experts, 17 bytes for 32 numbers.
    experts = [operator for operator in program.operators if operator.experts]
    assert {(operator.experts, operator.top_k, operator.precision) for operator in experts} == {(7, 4, "mxfp4")}
    assert sum(operator.token_bytes for operator in experts) == 2 * 4 * 3 * 72 * 88 * 17 // 32
    assert sum(operator.flops for operator in experts) == 2 * 2 * 4 * 3 * 72 * 88
    assert program.token_bytes == sum(operator.token_bytes for operator in program.operators)


def test_weights_of_different_precisions_are_not_joined():
    def precision(name):
        return "fp8" if "q_proj" in name or "up_proj" in name else "bf16"

    kernels = [operator.kernel for operator in compiled("llama", precision).operators]
    assert {"linear", "append", "rope", "swiglu"} <= set(kernels) and not {"qkv", "gate_up"} & set(kernels)


def test_experts_of_two_precisions_are_joined_in_bf16():
    found = formats(compiled("qwen3_moe", lambda name: "fp8" if "up_proj" in name else "bf16"))
    expert = "model.layers.0.mlp.experts.{expert}"
    assert found[f"{expert}.{{gate_proj,up_proj}}.weight"] == found[f"{expert}.down_proj.weight"] == "bf16"


def test_the_checkpoints_own_precision_goes_before_the_configs():
    assert set(formats(compiled("llama", lambda name: "f16", **FP8)).values()) == {"f16"}
