"""Folders: what is read, and one line for whatever is wrong with one."""

import json

import numpy as np
import pytest
import tiny
from safetensors.numpy import save_file

from ellm.checkpoint import open_checkpoint
from ellm.system.errors import InputError


@pytest.fixture
def folder(tmp_path):
    return tiny.write_checkpoint(tmp_path / "model", shards=2)


def refused(folder) -> str:
    with pytest.raises(InputError) as caught, open_checkpoint(folder) as checkpoint:
        checkpoint.tokenizer  # noqa: B018
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_every_tensor_is_read(tmp_path, shards):
    folder = tiny.write_checkpoint(tmp_path, shards=shards, attention_bias=True)
    config = json.loads((folder / "config.json").read_text())
    expected = tiny.random_weights(config, 0)
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.config == config
        assert checkpoint.generation["eos_token_id"] == [2, 0]
        assert checkpoint.tokenizer.eos_ids == {0, 2}
        assert checkpoint.tensors.keys() == expected.keys()
        for name, bits in expected.items():
            if bits.ndim == 1:
                np.testing.assert_array_equal(checkpoint.read_vector(name), tiny.from_bf16(bits))
            else:
                np.testing.assert_array_equal(checkpoint.read_rows(name, 3, 17), bits[3:17])
                np.testing.assert_array_equal(checkpoint.read_rows(name, 0, len(bits)), bits)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_float32_is_rounded_to_bf16_and_float16_kept(tmp_path, dtype):
    folder = tiny.write_checkpoint(tmp_path, layers=1)
    config = json.loads((folder / "config.json").read_text())
    random = np.random.default_rng(1)
    weights = {name: random.normal(size=shape).astype(dtype) for name, shape in tiny.shapes(config).items()}
    save_file(weights, folder / "model.safetensors")
    with open_checkpoint(folder) as checkpoint:
        name = "model.layers.0.mlp.up_proj.weight"
        rows = weights[name][5:50]
        expected = tiny.to_bf16(rows) if dtype == np.float32 else rows.view(np.uint16)
        np.testing.assert_array_equal(checkpoint.read_rows(name, 5, 50), expected)
        np.testing.assert_array_equal(checkpoint.read_vector("model.norm.weight"), weights["model.norm.weight"])


def test_float_specials_survive(tmp_path):
    folder = tiny.write_checkpoint(tmp_path, layers=1)
    config = json.loads((folder / "config.json").read_text())
    weights = {name: np.zeros(shape, np.float32) for name, shape in tiny.shapes(config).items()}
    weights["lm_head.weight"][0, :5] = [np.nan, np.inf, -np.inf, 3.3895e38, -0.0]
    save_file(weights, folder / "model.safetensors")
    with open_checkpoint(folder) as checkpoint:
        row = tiny.from_bf16(checkpoint.read_rows("lm_head.weight", 0, 1)[0, :5])
    assert np.isnan(row[0]) and row[1] == np.inf and row[2] == -np.inf and np.isfinite(row[3]) and np.signbit(row[4])


@pytest.mark.parametrize(
    "beside, words",
    [
        (None, "has no config.json, so it is not a checkpoint"),
        ("adapter_config.json", "but an adapter: merge it into its base model"),
        ("params.json", "params.json is of the layout of its authors"),
    ],
)
def test_no_config(folder, beside, words):
    (folder / "config.json").unlink()
    if beside:
        (folder / beside).write_text("{}")
    assert words in refused(folder)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "content, words",
    [
        (f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 1234567\n", "is a git-lfs pointer"),
        ("", "is empty"),
    ],
)
def test_files_that_are_not_there_yet(tmp_path, file, content, words):
    folder = tiny.write_checkpoint(tmp_path)
    (folder / file).write_text(content)
    assert f"{file}: {words}" in refused(folder)


@pytest.mark.parametrize(
    "file", ["config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe", b"", b"[" * 100_000])
def test_broken_json(folder, file, content):
    (folder / file).write_bytes(content)
    assert file in refused(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "broken tokenizer"),
        ("{}", "broken tokenizer"),
        ('{"model": 3}', "broken tokenizer"),
        ('{"version":"1.0","model":{"type":"BPE","vocab":{},"merges":["a b"]}}', "broken tokenizer"),
        (
            '{"version":"1.0","model":{"type":"BPE","vocab":{},"continuing_subword_prefix" :"#"}}',
            "continuing_subword_prefix is '#', must be empty",
        ),
        (
            '{"version":"1.0","model":{"type":"BPE","vocab":{},"continuing_\\u0073ubword_prefix":"#"}}',
            "continuing_subword_prefix is '#'",
        ),
    ],
)
def test_broken_tokenizer(folder, content, words):
    (folder / "tokenizer.json").write_text(content)
    assert f"tokenizer.json: {words}" in refused(folder)


def test_without_a_tokenizer_there_are_the_ids_that_end_an_answer(folder):
    (folder / "tokenizer.json").unlink()
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.tokenizer.eos_ids == {2, 0}
        with pytest.raises(InputError, match="so prompts are lists of token ids"):
            checkpoint.tokenizer.encode("hi")


@pytest.mark.parametrize(
    ("name", "generation", "expected"),
    [
        ("<|eot_id|>", {"eos_token_id": 0}, {0, 1}),  # Llama 3 as first released
        ("<|eot_id|>", {}, {0, 1}),
        ("<|im_end|>", {"eos_token_id": 0}, {0}),  # the model's own word
        ("<|im_end|>", {"eos_token_id": None}, {0, 1}),
        ("<|im_end|>", None, {0, 1}),
    ],
)
def test_the_end_of_turn_ends_an_answer_where_the_end_of_sequence_is_another_token(folder, name, generation, expected):
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"):
        text = (folder / file).read_text().replace("<|im_end|>", "<|other|>").replace("<|im_start|>", name)
        (folder / file).write_text(text)
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink()
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.tokenizer.eos_ids == expected


def test_more_layers_than_tensors(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 2_000_000_000}))
    assert "num_hidden_layers is 2000000000, its tensors have 2 layers" in refused(folder)


@pytest.mark.parametrize("eos", ["two", [2, "x"]])
def test_eos_of_the_wrong_type(folder, eos):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    assert f"eos_token_id is {eos!r}" in refused(folder)


def test_chat_template_file_comes_first(folder):
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    assert open_checkpoint(folder).tokenizer.render([{"role": "user", "content": "hi"}]) == "hi!"


def test_named_chat_templates(folder):
    path = folder / "tokenizer_config.json"
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools {{ tools | tojson }}"}]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": named}))
    tokenizer = open_checkpoint(folder).tokenizer
    assert tokenizer.render([]) == "plain"
    assert tokenizer.render([], tools=[{"name": "f"}]) == 'tools [{"name": "f"}]'


def test_a_file_that_shrinks_after_opening(tmp_path):
    folder = tiny.write_checkpoint(tmp_path)
    with open_checkpoint(folder) as checkpoint:
        with open(folder / "model.safetensors", "r+b") as file:
            file.truncate(20_000)
        with pytest.raises(InputError, match=r"lm_head.weight: the file ends at byte 20000|the file ends"):
            checkpoint.read_rows("lm_head.weight", 0, 300)


def test_a_layer_number_of_any_length_is_a_name_like_others(tmp_path):
    folder = tiny.write_checkpoint(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    weights = tiny.random_weights(config, 0) | {f"model.layers.{'9' * 5000}.x": np.zeros(2, np.float32)}
    tiny.write_weights(folder, weights, shards=1)
    with open_checkpoint(folder) as checkpoint:
        assert len(checkpoint.tensors) == len(weights)
