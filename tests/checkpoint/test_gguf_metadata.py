"""Metadata of GGUF files: what changes the numbers is read or refused, what nobody knows is listed."""

import gguf
import pytest
from tiny_gguf import SIZES, write_gguf, write_tiny

import ellm.models
from ellm.checkpoint import open_checkpoint
from ellm.system.errors import InputError

LAYERS = SIZES["layers"]


@pytest.mark.parametrize(
    "keys, words",
    [
        (dict(attention__causal=False), "llama.attention.causal is False, ellm computes llama with True only"),
        (dict(attention__scale=0.25), "llama.attention.scale is 0.25, must be 32^-0.5 = 0.176777"),
        (dict(logit_scale=0.0625), "llama.logit_scale is 0.0625, ellm computes llama with 0 or 1 only"),
        (dict(embedding_scale=12.0), "llama.embedding_scale is 12.0"),
        (dict(residual_scale=0.22), "llama.residual_scale is 0.2"),
        (dict(final_logit_softcapping=30.0), "llama.final_logit_softcapping is 30.0, ellm computes llama with 0"),
        (dict(attn_logit_softcapping=50.0), "llama.attn_logit_softcapping is 50.0"),
        (dict(attention__clamp_kqv=8.0), "llama.attention.clamp_kqv is 8.0"),
        (dict(attention__max_alibi_bias=8.0), "llama.attention.max_alibi_bias is 8.0"),
        (dict(use_parallel_residual=True), "llama.use_parallel_residual is True"),
        (dict(tensor_data_layout="unknown"), "llama.tensor_data_layout is 'unknown'"),
        (dict(hidden_activation="gelu"), "llama.hidden_activation is 'gelu'"),
        (dict(nextn_predict_layers=1), "llama.nextn_predict_layers is 1"),
        (dict(attention__kv_lora_rank=512), "llama.attention.kv_lora_rank is 512"),
        (dict(rope__scaling__yarn_log_multiplier=0.1), "llama.rope.scaling.yarn_log_multiplier is 0.1"),
        (dict(rope__scaling__yarn_ext_factor=0.5), "llama.rope.scaling.yarn_ext_factor is 0.5"),
        (dict(feed_forward_length=[256, 128]), "llama.feed_forward_length is [256, 128], must be the same in all lay"),
        (dict(attention__head_count_kv=[2] * 3), "is [2, 2, 2], has 3 values, the model 2 layers"),
        (dict(attention__head_count=["a", "b"]), "llama.attention.head_count is ['a', 'b'], must be ints"),
    ],
)
def test_what_ellm_does_not_compute_is_refused(tmp_path, keys, words):
    with pytest.raises(InputError) as caught:
        open_checkpoint(write_tiny(tmp_path, **keys)[2])
    assert words in str(caught.value) and str(caught.value).startswith(str(tmp_path / "tiny.gguf"))


def test_values_that_say_what_is_so_anyway(tmp_path):
    plain = open_checkpoint(write_tiny(tmp_path)[2]).config
    said = dict(
        attention__causal=True, attention__scale=32**-0.5, attention__clamp_kqv=0.0, logit_scale=1.0, vocab_size=999,
        tensor_data_layout="Meta AI original pth", use_parallel_residual=False, expert_count=0, expert_used_count=0,
        rope__scaling__finetuned=True, rope__scaling__yarn_ext_factor=-1.0, rope__freq_base_swa=99.0,
        rope__dimension_sections=[8, 4, 4, 0], attention__head_count_kv=[2] * LAYERS, nextn_predict_layers=0,
        feed_forward_length=[256] * LAYERS, attention__sliding_window=1024, rope__scaling__yarn_beta_fast=16.0,
        rope__scaling__original_context_length=256,
    )  # fmt: skip
    with open_checkpoint(write_tiny(tmp_path, **said)[2]) as checkpoint:
        assert checkpoint.config == plain
        assert checkpoint.unused_metadata == []


def write_with(tmp_path, **fields):
    """A tiny Llama whose file has these keys (dots as __) besides."""
    config, weights, _ = write_tiny(tmp_path)
    path = tmp_path / "more.gguf"
    write_gguf(path, config, weights, fields={key.replace("__", "."): value for key, value in fields.items()})
    return path


def test_keys_that_nobody_knows_are_listed(tmp_path):
    keys = dict(llama__magic=3, general__name="x", other__thing=[1, 2], quantize__imatrix__file="x", tokenizer__odd=1)
    path = write_with(tmp_path, **keys)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.unused_metadata == ["llama.magic", "other.thing"]


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("general.type", "adapter", "general.type is 'adapter': an adapter (LoRA), which needs merging into its model"),
        ("general.type", "imatrix", "general.type is 'imatrix': an importance matrix"),
        ("general.type", "mmproj", "general.type is 'mmproj': the vision or audio part of a model"),
    ],
)
def test_files_that_hold_no_model(tmp_path, key, value, words):
    with pytest.raises(InputError) as caught:
        open_checkpoint(write_with(tmp_path, **{key.replace(".", "__"): value}))
    assert words in str(caught.value)


def test_the_vision_part_of_a_model(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "mmproj.gguf", "clip")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"general.architecture is 'clip': the vision or audio part of a model: open"):
        open_checkpoint(tmp_path / "mmproj.gguf")


def test_blocks_of_an_older_version(tmp_path):
    config, weights, _ = write_tiny(tmp_path)
    old = {"general.quantization_version": 1}
    open_checkpoint(write_gguf(tmp_path / "plain.gguf", config, weights, fields=old)).close()
    quantised = write_gguf(tmp_path / "old.gguf", config, weights, gguf.GGMLQuantizationType.Q4_0, fields=old)
    words = r"general.quantization_version is 1, ellm reads 2 \(token_embd.weight is Q4_0\)"
    with pytest.raises(InputError, match=words):
        open_checkpoint(quantised)


WINDOW = dict(attention__sliding_window=64)


@pytest.mark.parametrize(
    "pattern, windows",
    [
        (None, (64, 64, 64, 64)),
        (2, (64, 0, 64, 0)),
        (3, (64, 64, 0, 64)),
        (1, (0, 0, 0, 0)),
        ([True, False, False, True], (64, 0, 0, 64)),
        ([False] * 4, (0, 0, 0, 0)),
    ],
)
@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"])
def test_sliding_windows(tmp_path, architecture, pattern, windows):
    keys = WINDOW | ({} if pattern is None else {"attention__sliding_window_pattern": pattern})
    sizes = dict(num_hidden_layers=4)
    path = write_tiny(tmp_path, architecture, config=sizes, **keys)[2]
    assert ellm.models.from_config(open_checkpoint(path).config).config.windows == windows


def test_windows_that_ellm_does_not_have(tmp_path):
    with pytest.raises(InputError, match=r"sliding_window_pattern is \[2, 3\], must be a number or say of each layer"):
        open_checkpoint(write_tiny(tmp_path, attention__sliding_window_pattern=[2, 3], **WINDOW)[2])
    with pytest.raises(InputError, match=r"rope.freq_base_swa is 1000.0, must equal rope.freq_base 10000"):
        open_checkpoint(write_tiny(tmp_path, rope__freq_base_swa=1000.0, **WINDOW)[2])
    biases = dict(attention_bias=True)
    with pytest.raises(InputError, match=r"attention.sliding_window is 64, which ellm does not have in a model with"):
        open_checkpoint(write_tiny(tmp_path, config=biases, **WINDOW)[2])


def test_how_a_model_wants_to_be_sampled(tmp_path):
    keys = dict(temp=0.6, top_k=20, top_p=0.95, min_p=0.0, penalty_repeat=1.05)
    path = write_with(tmp_path, **{f"general__sampling__{key}": value for key, value in keys.items()})
    expected = {f"general.sampling.{key}": value for key, value in keys.items()}
    assert open_checkpoint(path).generation == {"eos_token_id": [2], **expected}
