"""Families of GGUF files that are data alone: the same bits as from a folder, of experts in stacks and one by one."""

import os
from dataclasses import replace

import gguf
import numpy as np
import pytest
import tiny
import tiny_gguf
from gguf import GGMLQuantizationType as Type

import ellm.dsl
import ellm.models
from ellm import LLM
from ellm.checkpoint import open_checkpoint
from ellm.checkpoint.gguf_file import GGUFFile
from ellm.checkpoint.loader import load_weights
from ellm.kernels.formats import PLAIN
from ellm.scheduler.placement import Placement
from ellm.system.errors import InputError

SIZES = dict(vocab=268, hidden_size=64, head_dim=16, intermediate_size=96)
MOE = dict(moe_intermediate_size=32)
FAMILIES: dict[str, dict] = {
    "SmolLM3ForCausalLM": dict(layers=5),
    "MixtralForCausalLM": dict(),
    "Qwen3MoeForCausalLM": MOE,
    "Glm4MoeForCausalLM": MOE | dict(n_group=1, topk_group=1),
}


def config_of(architecture) -> dict:
    return tiny.make_config(architecture, **{"layers": 2, **SIZES, **FAMILIES[architecture]})


def write(path, architecture, weights, dtype=Type.BF16, **keys):
    return tiny_gguf.write_gguf(path, config_of(architecture), weights, dtype, **keys)


def packed(source, packing=ellm.dsl.as_stored) -> np.ndarray:
    """The weights of the program that a checkpoint's configuration describes, as they lie in memory."""
    with open_checkpoint(source) as checkpoint:
        model = ellm.models.from_config(checkpoint.config, checkpoint.precision)
        program = ellm.dsl.compile(model.graph(), context=512, chunk=64, packing=packing)
        region = np.zeros(program.weights_bytes, np.uint8)
        placement = Placement(sorted(os.sched_getaffinity(0))[:1])
        load_weights(program.weights, checkpoint, region.ctypes.data, placement)
        assert checkpoint.ignored(program) == []
    assert region.any()
    return region


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_gguf_packs_to_the_bytes_of_its_folder(tmp_path, architecture):
    config = config_of(architecture)
    folder = tiny.write_checkpoint(tmp_path / "folder", architecture, **SIZES, **FAMILIES[architecture])
    tiny.write_json(folder / "config.json", config)
    tiny.write_weights(folder, tiny.random_weights(config, 0), 1)
    path = write(tmp_path / "tiny.gguf", architecture, tiny_gguf.random_floats(config))
    with open_checkpoint(path) as ours, open_checkpoint(folder) as theirs:
        assert ours.tensors.keys() == theirs.tensors.keys()
        models = [ellm.models.from_config(one.config) for one in (ours, theirs)]
        assert models[0].config == models[1].config
    np.testing.assert_array_equal(packed(path), packed(folder))


@pytest.mark.parametrize("architecture", ["MixtralForCausalLM", "Qwen3MoeForCausalLM"])
def test_quantised_experts(tmp_path, architecture):
    """Each expert's blocks lie apart in the stack: as if every one had been rounded by itself."""
    weights = tiny_gguf.random_floats(config_of(architecture))
    rounded = {
        name: gguf.quants.dequantize(gguf.quants.quantize(values, Type.Q5_0), Type.Q5_0)
        if values.ndim > 1 and ".gate.weight" not in name
        else values
        for name, values in weights.items()
    }
    one = write(tmp_path / "q5_0.gguf", architecture, weights, Type.Q5_0)
    other = write(tmp_path / "f32.gguf", architecture, rounded, Type.F32)
    np.testing.assert_array_equal(packed(one, ellm.dsl.packed_as(PLAIN)), packed(other))


def test_experts_that_lie_apart(tmp_path):
    """As files of Mixtral had them before experts were stacked."""
    weights = tiny_gguf.random_floats(config_of("MixtralForCausalLM"))
    stacks = write(tmp_path / "stacks.gguf", "MixtralForCausalLM", weights)
    old = {}
    for name, values in weights.items():
        match = tiny_gguf.EXPERT.fullmatch(name)
        if match:
            name = tiny_gguf.stored_name(f"{match[1]}{match[3]}").replace("_exps", f".{match[2]}")
        old[name] = values
    np.testing.assert_array_equal(packed(write(tmp_path / "old.gguf", "MixtralForCausalLM", old)), packed(stacks))


@pytest.mark.parametrize("scaled", [False, True])
def test_a_scale_for_each_expert(tmp_path, scaled):
    weights = tiny_gguf.random_floats(config_of("Qwen3MoeForCausalLM"))
    factors = np.array([0.5, 1, 2, 4, 0.25, 8, 1], np.float32)
    extra = {"blk.1.ffn_up_exps.scale": factors} if scaled else {}
    path = write(tmp_path / "tiny.gguf", "Qwen3MoeForCausalLM", weights | extra)
    with open_checkpoint(path) as checkpoint:
        for expert in range(7):
            name = f"model.layers.1.mlp.experts.{expert}.up_proj.weight"
            wanted = weights[name] * factors[expert] if scaled else weights[name]
            np.testing.assert_array_equal(checkpoint.read_rows(name, 0, 32), tiny.to_bf16(wanted))


@pytest.mark.parametrize(
    "architecture, settings",
    [
        ("LlamaForCausalLM", dict(attention_bias=True, num_attention_heads=9, num_key_value_heads=3, hidden_size=96)),
        ("Qwen2ForCausalLM", dict()),
        ("Qwen3MoeForCausalLM", MOE),
        ("MixtralForCausalLM", dict()),
    ],
)
def test_fused_tensors(tmp_path, architecture, settings):
    config = tiny.make_config(architecture, layers=2, **(SIZES | settings))
    weights = tiny_gguf.random_floats(config)
    plain = tiny_gguf.write_gguf(tmp_path / "plain.gguf", config, weights)
    one = tiny_gguf.write_gguf(tmp_path / "fused.gguf", config, tiny_gguf.fused(weights, config))
    assert "blk.0.attn_qkv.weight" in GGUFFile(one).tensors
    with open_checkpoint(one) as ours, open_checkpoint(plain) as theirs:
        assert ours.config == theirs.config and ours.tensors.keys() == theirs.tensors.keys()
    np.testing.assert_array_equal(packed(one), packed(plain))


def test_fused_tensors_of_another_size(tmp_path):
    config = tiny.make_config("Qwen3ForCausalLM", layers=1, **SIZES)
    weights = tiny_gguf.fused(tiny_gguf.random_floats(config), config)
    weights["blk.0.attn_qkv.weight"] = weights["blk.0.attn_qkv.weight"][1:]
    path = tiny_gguf.write_gguf(tmp_path / "tiny.gguf", config, weights)
    with pytest.raises(InputError, match=r"blk.0.attn_qkv.weight has 127 rows, must have 64 \+ 32 \+ 32"):
        open_checkpoint(path)


def test_layers_for_more_tokens_at_once_are_left_out(tmp_path):
    config = config_of("Glm4MoeForCausalLM") | {"num_hidden_layers": 3}
    weights = tiny_gguf.random_floats(config)
    extra = {"blk.2.nextn.eh_proj.weight": np.zeros((64, 128), np.float32)}
    path = tiny_gguf.write_gguf(tmp_path / "tiny.gguf", config, weights | extra, Type.BF16, nextn_predict_layers=1)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.config["num_hidden_layers"] == 2
        model = ellm.models.from_config(checkpoint.config)
        ignored = checkpoint.ignored(ellm.dsl.compile(model.graph(), context=512, chunk=64))
    assert "model.layers.2.eh_proj.weight" in ignored
    assert all(name.startswith("model.layers.2.") for name in ignored)


@pytest.mark.parametrize(
    "architecture, keys, words",
    [
        ("MixtralForCausalLM", dict(expert_count=4), r"ffn_gate_exps.weight is \[5, 96, 64\], must be of 4 experts"),
        (
            "MixtralForCausalLM",
            dict(expert_gating_func=2),
            "llama.expert_gating_func is 2, ellm computes llama with 0 or 1",
        ),
        ("MixtralForCausalLM", dict(expert_weights_scale=2.0), "llama.expert_weights_scale is 2.0"),
        (
            "Qwen3MoeForCausalLM",
            dict(expert_count=0),
            "qwen3moe.expert_count is 0, of qwen3moe ellm has models with exp",
        ),
        ("Qwen3MoeForCausalLM", dict(expert_shared_count=1), "qwen3moe.expert_shared_count is 1"),
        ("Qwen3MoeForCausalLM", dict(expert_weights_norm=False), "qwen3moe.expert_weights_norm is False"),
        ("Qwen3MoeForCausalLM", dict(attention__sliding_window=64), "which ellm does not read for Qwen3MoeForCausalLM"),
        ("Glm4MoeForCausalLM", dict(expert_gating_func=1), "glm4moe.expert_gating_func is 1"),
        ("Glm4MoeForCausalLM", dict(nextn_predict_layers=2), "nextn_predict_layers is 2, must be below block_count 2"),
    ],
)
def test_refused(tmp_path, architecture, keys, words):
    weights = tiny_gguf.random_floats(config_of(architecture))
    with pytest.raises(InputError, match=words):
        open_checkpoint(write(tmp_path / "tiny.gguf", architecture, weights, **keys))


def gpt_oss(folder, **settings):
    """A tiny gpt-oss: the folder of its safetensors in bf16, its configuration and its weights."""
    settings = dict(vocab=283, rope="yarn-untruncated", layers=4, hidden_size=96, intermediate_size=64) | settings
    path = tiny.write_checkpoint(folder, "GptOssForCausalLM", **settings)
    config = tiny.make_config("GptOssForCausalLM", **settings)
    return path, config, tiny_gguf.random_floats(config)


def logits(source) -> np.ndarray:
    with LLM(source, threads=1, context=256, activations="bf16") as llm:
        return llm.logits([(7 * number) % 280 for number in range(90)])


def test_gpt_oss_computes_the_bits_of_its_folder(tmp_path):
    folder, config, weights = gpt_oss(tmp_path / "folder")
    path = tiny_gguf.write_gguf(tmp_path / "tiny.gguf", config, weights, Type.BF16)
    with open_checkpoint(path) as checkpoint:
        ours, theirs = (ellm.models.from_config(one).config for one in (checkpoint.config, config))
        assert replace(ours, experts_apart=False) == theirs
    np.testing.assert_array_equal(logits(path), logits(folder))


def test_gpt_oss_in_mxfp4(tmp_path):
    """As it is released: the experts alone, whose rows are blocks of 32."""
    _, config, weights = gpt_oss(tmp_path / "folder")
    weights = tiny_gguf.apart(weights)
    blocks = {name: gguf.quants.quantize(w, Type.MXFP4) for name, w in weights.items() if "_exps.weight" in name}
    rounded = weights | {name: gguf.quants.dequantize(data, Type.MXFP4) for name, data in blocks.items()}
    one = tiny_gguf.write_gguf(tmp_path / "mxfp4.gguf", config, weights | blocks, Type.BF16)
    other = tiny_gguf.write_gguf(tmp_path / "bf16.gguf", config, rounded, Type.BF16)
    with open_checkpoint(one) as checkpoint:
        assert checkpoint.tensors["model.layers.0.mlp.experts.3.up_proj.weight"].dtype == "MXFP4"
    np.testing.assert_array_equal(logits(one), logits(other))


def test_gpt_oss_in_mxfp4_has_the_bits_of_its_folder(tmp_path):
    """Which has the two codes of a byte side by side, where GGUF has the halves of a block."""
    settings = dict(vocab=283, rope="yarn-untruncated", layers=2, hidden_size=96, intermediate_size=64)
    folder = tiny.write_checkpoint(tmp_path / "folder", "GptOssForCausalLM", precision="mxfp4", **settings)
    config = tiny.make_config("GptOssForCausalLM", precision="mxfp4", **settings)
    stored = tiny.expand(tiny.random_weights(config, 0))
    weights = tiny_gguf.apart({name: tiny.from_bf16(bits) for name, bits in stored.items()})
    for name, values in weights.items():
        if "_exps.weight" in name:
            weights[name] = gguf.quants.quantize(values, Type.MXFP4)
            np.testing.assert_array_equal(gguf.quants.dequantize(weights[name], Type.MXFP4), values)
    path = tiny_gguf.write_gguf(tmp_path / "tiny.gguf", config, weights, Type.BF16)
    np.testing.assert_array_equal(logits(path), logits(folder))


@pytest.mark.parametrize(
    "keys, windows",
    [
        (dict(), (50, 0, 50, 0)),
        (dict(attention__sliding_window_pattern=4), (50, 50, 50, 0)),
        (dict(attention__sliding_window_pattern=[False, True, True, False]), (0, 50, 50, 0)),
        (dict(attention__sliding_window=4096), (0, 0, 0, 0)),
    ],
)
def test_windows_of_gpt_oss(tmp_path, keys, windows):
    _, config, weights = gpt_oss(tmp_path / "folder")
    path = tiny_gguf.write_gguf(tmp_path / "tiny.gguf", config, weights, Type.BF16, **keys)
    assert ellm.models.from_config(open_checkpoint(path).config).config.windows == windows


def test_gpt_oss_without_yarn(tmp_path):
    _, config, weights = gpt_oss(tmp_path / "folder")
    path = tiny_gguf.write_gguf(tmp_path / "tiny.gguf", config, weights, Type.BF16, rope__scaling__type="none")
    assert open_checkpoint(path).config["rope_scaling"] == {"rope_type": "default"}
