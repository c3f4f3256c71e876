"""Where a checkpoint keeps its chat templates, and which goes first."""

import json

import pytest
import tiny
import tiny_gguf

from ellm.checkpoint import open_checkpoint
from ellm.checkpoint.chat_templates import read_templates
from ellm.checkpoint.folder import FILES
from ellm.system.errors import InputError

LIST = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]


def read(folder, value=None, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_jinja", ".jinja").replace("_json", ".json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return read_templates(folder, {} if value is None else {"chat_template": value})


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, {}),
        ("D", {"default": "D"}),
        (LIST, {"default": "D", "tool_use": "T"}),
        ({"default": "D", "tool_use": "T"}, {"default": "D", "tool_use": "T"}),
        ([], {}),
    ],
)
def test_forms_of_tokenizer_config(tmp_path, value, found):
    assert read(tmp_path, value) == found


def test_what_goes_first(tmp_path):
    assert read(tmp_path, LIST, chat_template_json='{"chat_template": "P"}') == {"default": "P"}
    assert read(tmp_path, LIST, chat_template_jinja="J") == {"default": "J"}
    additional = {"additional_chat_templates__tool_use_jinja": "A", "additional_chat_templates__rag_jinja": "R"}
    assert read(tmp_path, **additional) == {"default": "J", "tool_use": "A", "rag": "R"}
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.json").unlink()
    assert read(tmp_path, LIST) == {"default": "D", "tool_use": "A", "rag": "R"}


@pytest.mark.parametrize("value", [3, ["D"], [{"name": "default"}], {"default": 3}], ids=repr)
def test_forms_that_are_refused(tmp_path, value):
    with pytest.raises(
        InputError, match=r"tokenizer_config.json: chat_template is .*, must be a text or named templates"
    ):
        read(tmp_path, value)


def test_files_that_are_refused(tmp_path):
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "x.jinja").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"x.jinja: cannot be read"):
        read(tmp_path)


def test_tools_choose_their_template(tmp_path):
    folder = tiny.write_checkpoint(tmp_path)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": LIST}))
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.tokenizer.render([]) == checkpoint.tokenizer.render([], tools=[]) == "D"
        assert checkpoint.tokenizer.render([], tools=[{}]) == "T"
    assert "additional_chat_templates/*.jinja" in FILES


def test_named_templates_of_a_gguf_file(tmp_path):
    def add(writer):
        tiny_gguf.add_byte_level(writer)
        del writer.kv_data[0]["tokenizer.chat_template"]
        writer.add_chat_template([*LIST, {"name": "rag", "template": "R"}])

    config = tiny.make_config("LlamaForCausalLM", vocab=268)
    path = tiny_gguf.write_gguf(tmp_path / "x.gguf", config, tiny_gguf.random_floats(config), tokenizer=add)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.tokenizer.render([]) == "D"
        assert checkpoint.tokenizer.render([], tools=[{}]) == "T"
