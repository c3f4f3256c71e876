"""What policies make of each matrix, and that a program packed otherwise than stored computes the same."""

import numpy as np
import pytest
from model_configs import CONFIGS
from packed_logits import packed_logits
from tiny import write_checkpoint

from ellm.dsl import as_stored, compile, packed_as
from ellm.kernels.formats import FORMATS
from ellm.models import from_config
from ellm.system.errors import InputError

ENDS = {"model.embed_tokens.weight", "lm_head.weight"}
SIZES = {"hidden_size": 256, "intermediate_size": 512, "moe_intermediate_size": 128}


def compiled(name, policy, precision=None, **overrides):
    model = from_config({**CONFIGS[name], **SIZES, **overrides}, precision)
    return compile(model.graph(), context=64, packing=policy)


def formats(program) -> dict[str, str]:
    return {entry.name: entry.format for entry in program.weights if entry.layout == "tiles"}


def test_matrices_are_packed_as_stored_unless_told_otherwise():
    stored = formats(compiled("llama", as_stored, lambda name: "fp8" if "o_proj" in name else "f16"))
    assert {name: format for name, format in stored.items() if format != "f16"} == {
        f"model.layers.{layer}.self_attn.o_proj.weight": "fp8" for layer in (0, 1)
    }


def test_fewer_bits_leave_head_embedding_and_routers_as_they_are():
    found = formats(compiled("qwen3_moe", packed_as(FORMATS["fp8"])))
    routers = {name for name in found if name.endswith("mlp.gate.weight")}
    assert routers and {name for name, format in found.items() if format == "bf16"} == ENDS | routers
    assert set(found.values()) == {"bf16", "fp8"}


@pytest.mark.parametrize("name", ["qwen3_moe", "llama"])
def test_mxfp4_is_for_experts_if_there_are_any(name):
    found = formats(compiled(name, packed_as(FORMATS["mxfp4"])))
    packed = {name for name, format in found.items() if format == "mxfp4"}
    wanted = {one for one in found if "experts" in one} if name == "qwen3_moe" else found.keys() - ENDS
    assert packed == wanted


def test_a_policy_decides_what_is_joined():
    found = formats(compiled("llama", lambda weight, use: "fp8" if "k_proj" in weight.name else "bf16"))
    assert "model.layers.0.self_attn.k_proj.weight" in found
    stored = formats(compiled("llama", packed_as(FORMATS["bf16"]), lambda name: "fp8" if "k_proj" in name else "bf16"))
    assert "model.layers.0.self_attn.{q_proj,k_proj,v_proj}.weight" in stored


def test_experts_whose_halves_would_be_packed_apart_are_in_bf16():
    found = formats(compiled("qwen3_moe", lambda weight, use: "q8_0" if "gate_proj" in weight.name else "fp8"))
    joined = {format for name, format in found.items() if "experts.{expert}.{gate_proj,up_proj}" in name}
    assert joined == {"bf16"}
    assert {format for name, format in found.items() if "down_proj" in name} == {"fp8"}


@pytest.mark.parametrize("dtype", ["fp8", "q8_0", "q4_k", "q3_k"])
def test_a_format_has_its_size(dtype):
    program = compiled("llama", packed_as(FORMATS[dtype]))
    packed = [entry for entry in program.weights if entry.format == dtype]
    assert packed and all(entry.bytes == entry.n_tiles * FORMATS[dtype].column_bytes(entry.k_tiles) for entry in packed)
    assert sum(one.token_bytes for one in program.operators if one.precision == dtype) == pytest.approx(
        sum(one.flops for one in program.operators if one.precision == dtype) / 16 * FORMATS[dtype].stored_bits,
        rel=1e-3,
    )


def logits(folder, dtype) -> np.ndarray:
    found, formats_used = packed_logits(folder, dtype)
    assert formats_used == ({dtype, "f32"} if dtype else {"bf16", "f32", "fp8"})
    return found


@pytest.mark.parametrize("architecture", ["Qwen3MoeForCausalLM", "DeepseekV3ForCausalLM"])
def test_a_quantized_checkpoint_packed_in_bf16_gives_the_same_bits(tmp_path, architecture):
    folder = write_checkpoint(tmp_path, architecture, precision="fp8")
    stored, expanded = logits(folder, None), logits(folder, "bf16")
    assert np.isfinite(stored).all() and stored.std() > 0
    np.testing.assert_array_equal(expanded, stored)


def test_what_the_loader_cannot_make_is_one_line(tmp_path):
    folder = write_checkpoint(tmp_path, "LlamaForCausalLM")
    with pytest.raises(InputError, match=r"dtype is BF16, ellm makes bf16, q8_0, iq4_nl of it, not q4_0$"):
        logits(folder, "q4_0")
