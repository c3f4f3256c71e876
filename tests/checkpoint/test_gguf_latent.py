"""DeepSeek in GGUF files, in both forms of latent attention: the bits of the same weights in a folder."""

import re
from dataclasses import replace

import gguf
import latent_gguf
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
from ellm.compiled import EXPANDED_ROWS
from ellm.system.errors import InputError

# All matrices have rows of whole blocks of 32.
SIZES = dict(
    vocab=283, hidden_size=64, intermediate_size=96, kv_lora_rank=64, qk_nope_head_dim=32, v_head_dim=32,
    moe_intermediate_size=32,
)  # fmt: skip
V2_ROPE = {**tiny.ROPES["yarn-mscale"], "mscale": 0.707, "mscale_all_dim": 0.707}
MODELS: dict[str, dict] = {
    "V2-Lite": dict(architecture="DeepseekV2ForCausalLM", rope=V2_ROPE),
    "V2": dict(
        architecture="DeepseekV2ForCausalLM", rope=V2_ROPE, q_lora_rank=64, topk_method="group_limited_greedy",
        n_routed_experts=12, n_group=4, topk_group=2, routed_scaling_factor=1.5,
    ),
    "V3": dict(architecture="DeepseekV3ForCausalLM", rope="yarn-mscale", q_lora_rank=64, layers=3),
    "Kimi-K2": dict(
        architecture="DeepseekV3ForCausalLM", rope={**tiny.ROPES["yarn-mscale"], "beta_fast": 1, "beta_slow": 1},
        q_lora_rank=64, n_group=1, topk_group=1, rope_theta=50000.0, routed_scaling_factor=2.827,
    ),
    "GLM-4.7-Flash": dict(
        architecture="DeepseekV3ForCausalLM", q_lora_rank=96, n_group=1, topk_group=1, qk_nope_head_dim=96,
        v_head_dim=64, rms_norm_eps=1e-5, rope_theta=1000000.0, routed_scaling_factor=1.8,
    ),
}  # fmt: skip
FORMS = pytest.mark.parametrize("expanded", [False, True], ids=["new", "old"])
PROMPT = [(7 * number) % 280 for number in range(90)]


def config_of(model: str, **settings) -> dict:
    return tiny.make_config(**(SIZES | MODELS[model] | settings))


def write(path, config, weights, dtype=Type.F32, *, expanded=False, **keys):
    """A file that says which groups experts are in, in the old form of latent attention too."""
    groups = dict(expert_group_count=config["n_group"], expert_group_used_count=config["topk_group"])
    return tiny_gguf.write_gguf(path, config, weights, dtype, expanded=expanded, **(groups | keys))


def write_folder(path, config, weights):
    """The same in safetensors, rounded to bf16 once."""
    path.mkdir()
    tiny.write_json(path / "config.json", config)
    tiny.write_tokenizer(path)
    stored = {name: values if values.ndim == 1 else tiny.to_bf16(values) for name, values in weights.items()}
    tiny.write_weights(path, stored, 1)
    return path


def as_stored(weights, config, dtype, expanded):
    """What the numbers of a file in blocks of `dtype` are worth."""

    def work(values):
        return gguf.quants.dequantize(gguf.quants.quantize(values, dtype), dtype)

    return {
        name: latent_gguf.rounded(name, values, config, expanded, work)
        if values.ndim > 1 and not name.endswith(".gate.weight")
        else values
        for name, values in weights.items()
    }


def logits(source, prompt=PROMPT, **options) -> np.ndarray:
    with LLM(source, threads=1, context=512, activations="bf16", **options) as llm:
        return llm.logits(prompt)


@pytest.mark.parametrize("dtype", [Type.F32, Type.BF16, Type.Q8_0, Type.Q4_0], ids=lambda dtype: dtype.name)
@FORMS
@pytest.mark.parametrize("model", MODELS)
def test_the_bits_of_its_folder(tmp_path, model, expanded, dtype):
    """Also without blocks, where both forms are therefore the same."""
    config = config_of(model)
    weights = tiny_gguf.random_floats(config)
    path = write(tmp_path / "tiny.gguf", config, weights, dtype, expanded=expanded)
    if dtype in (Type.Q8_0, Type.Q4_0):
        weights = as_stored(weights, config, dtype, expanded)
    np.testing.assert_array_equal(logits(path), logits(write_folder(tmp_path / "folder", config, weights)))


@FORMS
@pytest.mark.parametrize("model", MODELS)
def test_the_configuration_of_its_folder(tmp_path, model, expanded):
    config = config_of(model)
    path = write(tmp_path / "tiny.gguf", config, tiny_gguf.random_floats(config), expanded=expanded)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.unused_metadata == checkpoint.notes == []
        ours, theirs = (ellm.models.from_config(one).config for one in (checkpoint.config, config))
        program = ellm.dsl.compile(ellm.models.from_config(checkpoint.config).graph(), context=512, chunk=64)
        assert checkpoint.ignored(program) == []
    groups = {"n_group": 1, "topk_group": 1} if model == "V2-Lite" else {}  # one group of all is none
    assert ours == replace(theirs, kv_b_apart=not expanded, **groups)


@FORMS
def test_blocks_stay_as_they_are_stored(tmp_path, expanded):
    """But of the old form's keys, along whose rows absorbed queries are multiplied."""
    config = config_of("V3")
    path = write(tmp_path / "tiny.gguf", config, tiny_gguf.random_floats(config), Type.Q8_0, expanded=expanded)
    with open_checkpoint(path) as checkpoint:
        model = ellm.models.from_config(checkpoint.config, checkpoint.precision)
        program = ellm.dsl.compile(model.graph(), context=512, chunk=64)
    parts = {weight: weight.name.rpartition("self_attn.")[2] for weight in program.weights}
    found = {f"{part} {weight.format}" for weight, part in parts.items() if re.match("(k|v|kv)_b_proj", part)}
    wanted = (
        ["kv_b_proj.weight bf16", "kv_b_proj.weight q8_0"]
        if expanded
        else ["k_b_proj.weight q8_0", "v_b_proj.weight q8_0"]
    )
    assert sorted(found) == wanted


@FORMS
def test_expanded_prefill(tmp_path, expanded):
    """Keys of the new form are turned there."""
    config, prompt = config_of("V3"), [number % 280 for number in range(3, 7 * EXPANDED_ROWS + 50, 7)]
    weights = tiny_gguf.random_floats(config)
    path = write(tmp_path / "tiny.gguf", config, weights, Type.Q8_0, expanded=expanded)
    folder = write_folder(tmp_path / "folder", config, as_stored(weights, config, Type.Q8_0, expanded))
    ours, theirs = (logits(source, prompt, expanded_prefill=True) for source in (path, folder))
    np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(ours, logits(path, prompt))


@pytest.mark.parametrize("model, architecture", [("V2", "DeepseekV2ForCausalLM"), ("V3", "DeepseekV3ForCausalLM")])
def test_a_file_that_says_nothing_of_its_router(tmp_path, model, architecture):
    """Sigmoid has a bias; groups are none, as for llama.cpp."""
    config = config_of(model)
    path = tiny_gguf.write_gguf(tmp_path / "old.gguf", config, tiny_gguf.random_floats(config), expanded=True)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.config["architectures"] == [architecture]
        assert checkpoint.config["n_group"] == checkpoint.config["topk_group"] == 1
        (note,) = checkpoint.notes
    assert note.startswith(f"{path}: does not say deepseek2.expert_group_count")


@FORMS
def test_layers_for_more_tokens_at_once_are_left_out(tmp_path, expanded):
    config = config_of("GLM-4.7-Flash", layers=3)
    weights = tiny_gguf.random_floats(config) | {"blk.2.nextn.eh_proj.weight": np.zeros((64, 128), np.float32)}
    path = write(tmp_path / "mtp.gguf", config, weights, expanded=expanded, nextn_predict_layers=1)
    fewer = config | {"num_hidden_layers": 2}
    kept = {name: values for name, values in weights.items() if not name.startswith(("model.layers.2.", "blk.2."))}
    np.testing.assert_array_equal(logits(path), logits(write(tmp_path / "tiny.gguf", fewer, kept, expanded=expanded)))


def test_experts_with_gate_and_up_in_one_stack(tmp_path):
    config = config_of("V3")
    weights = tiny_gguf.random_floats(config)
    one = write(tmp_path / "fused.gguf", config, tiny_gguf.fused(weights, config), expanded=True)
    assert "blk.1.ffn_gate_up_exps.weight" in GGUFFile(one).tensors
    np.testing.assert_array_equal(logits(one), logits(write(tmp_path / "tiny.gguf", config, weights)))


def test_both_forms_in_one_file(tmp_path):
    """As ik_llama.cpp writes them, with matrices of heads one behind the other: the older tensor is the original."""
    config = config_of("V3")
    weights = tiny_gguf.random_floats(config)
    halves = latent_gguf.parted(weights, config)
    added = {
        name: values.reshape(-1, values.shape[-1])
        for name, values in halves.items()
        if name.endswith(("_k_b.weight", "_v_b.weight"))
    }
    both = write(tmp_path / "both.gguf", config, weights | added, expanded=True)
    one = write(tmp_path / "one.gguf", config, weights, expanded=True)
    np.testing.assert_array_equal(logits(both), logits(one))


@pytest.mark.parametrize(
    "model, keys, words",
    [
        (
            "V3",
            dict(attention__key_length=96),
            r"key_length is 96, must be 80 \(kv_lora_rank \+ rope.dimension_count\)",
        ),
        ("V3", dict(attention__value_length=32), r"attention.value_length is 32, must be 64 \(kv_lora_rank\)"),
        ("V3", dict(attention__head_count_kv=4), r"attention.head_count_kv is 4, must be 1 \(of latents\)"),
        ("V3", dict(attention__key_length_mla=16), "key_length_mla is 16, must be more than rope.dimension_count 16"),
        (
            "V3",
            dict(attention__key_length_mla=64),
            r"attn_k_b.weight is \[4, 64, 32\], must be \[4, 64, 48\]",
        ),
        (
            "V3",
            dict(attention__value_length_mla=24),
            r"attn_v_b.weight is \[4, 32, 64\], must be \[4, 24, 64\]",
        ),
        ("V3", dict(attention__head_count=8), r"attn_k_b.weight is \[4, 64, 32\], must be \[8, 64, 32\]"),
        ("V3", dict(expert_gating_func=1), r"expert_gating_func is 1, softmax, to which blk.1.exp_probs_b.bias"),
        ("V3", dict(expert_gating_func=3), "expert_gating_func is 3, ellm computes deepseek2 with 0 or 1 or 2 only"),
        ("V3", dict(attention__temperature_scale=0.1), "deepseek2.attention.temperature_scale is 0.1"),
        ("V3", dict(attention__sliding_window=64), "which ellm does not read for DeepseekV3ForCausalLM"),
        (
            "V3",
            dict(rope__scaling__attn_factor=1.2),
            "attn_factor is 1.2[0-9]*, must be 1 in a model of latent attention",
        ),
        ("V3", dict(rope__scaling__yarn_log_multiplier=0.0), "yarn_log_multiplier is 0.0, must be a positive number"),
        ("V3", dict(rope__scaling__type="longrope"), "rope_factors_long.weight is missing"),
        ("V3", dict(expert_count=0), "deepseek2.expert_count is 0, of deepseek2 ellm has models with experts"),
        ("V3", dict(nextn_predict_layers=3), "nextn_predict_layers is 3, must be below block_count 3"),
        ("V2", dict(expert_weights_norm=True), "expert_weights_norm is True, ellm computes deepseek2 with False only"),
        ("V2", dict(expert_shared_feed_forward_length=32), "deepseek2.expert_shared_feed_forward_length is 32"),
        ("GLM-4.7-Flash", dict(rope__scaling__yarn_log_multiplier=0.1), "yarn_log_multiplier is 0.1"),
    ],
)
def test_refused(tmp_path, model, keys, words):
    config = config_of(model)
    with pytest.raises(InputError, match=words):
        open_checkpoint(write(tmp_path / "tiny.gguf", config, tiny_gguf.random_floats(config), **keys))


def test_refused_in_the_old_form(tmp_path):
    config = config_of("V3")
    path = write(
        tmp_path / "tiny.gguf", config, tiny_gguf.random_floats(config), expanded=True, attention__head_count_kv=1
    )
    with pytest.raises(InputError, match=r"head_count_kv is 1, must be 4 \(head_count\)"):
        open_checkpoint(path)


def test_yarn_that_does_not_say_how_sharp_attention_is(tmp_path):
    config = config_of("V3", rope="yarn")
    with pytest.raises(InputError, match=r"deepseek2\.rope\.scaling\.yarn_log_multiplier is missing"):
        open_checkpoint(write(tmp_path / "tiny.gguf", config, tiny_gguf.random_floats(config)))


@pytest.mark.parametrize("stem", ["attn_k_b", "attn_v_b"])
def test_a_tensor_that_is_missing(tmp_path, stem):
    config = config_of("V3")
    weights = latent_gguf.parted(tiny_gguf.random_floats(config), config)
    del weights[f"blk.1.{stem}.weight"]
    with pytest.raises(InputError, match=f"tensor blk.1.{stem}.weight is missing"):
        open_checkpoint(write(tmp_path / "tiny.gguf", config, weights))
