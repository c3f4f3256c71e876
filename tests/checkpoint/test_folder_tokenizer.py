"""Tokenizers of folders: committed ids of transformers, and live ones under the oracle marker."""

import json

import hypothesis
import pytest
import tiny
import tokenizer_folders as folders
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from ellm.checkpoint.folder_tokenizer import build
from ellm.checkpoint.json_file import read_json, read_json_if_any
from ellm.system.errors import InputError


def opened(folder):
    """The backend of a folder, and the texts of its roles."""
    return build(folder, read_json(folder / "config.json"), read_json_if_any(folder / "tokenizer_config.json"))


def ours(folder, seed: int) -> dict:
    """What `folders.peer` says, of our tokenizer."""
    backend, roles = opened(folder)
    ids = [backend.encode(text).ids for text in folders.texts(seed)]
    bare = [backend.encode(text, add_special_tokens=False).ids for text in folders.texts(seed)]
    shown = [[backend.decode(one, skip_special_tokens=skip) for skip in (False, True)] for one in ids]
    found = {role: backend.token_to_id(roles[role]) if role in roles else None for role in ("bos_token", "eos_token")}
    return {"ids": ids, "bare": bare, "shown": shown, **found}


@pytest.mark.parametrize("seed", folders.SEEDS)
def test_files_beside_a_tokenizer_mean_what_they_mean_in_transformers(tmp_path, seed):
    folders.write(tmp_path, seed)
    assert ours(tmp_path, seed) == json.loads(folders.FILE.read_text())[seed]


@pytest.mark.oracle
@pytest.mark.parametrize("seed", range(1000, 1400))
def test_folders_against_transformers(tmp_path, seed):
    folders.write(tmp_path, seed)
    assert ours(tmp_path, seed) == folders.peer(tmp_path, seed)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 300}))
    tiny.write_tokenizer(tmp_path)  # of 267 tokens
    return tmp_path


def edit(folder, **settings):
    path = folder / "tokenizer_config.json"
    old = read_json(path)
    path.write_text(json.dumps({key: value for key, value in (old | settings).items() if value is not ...}))


def test_added_tokens_of_either_file(folder):
    added = {"<|im_start|>": 1, "<new>": 267, "<|im_end|>": 2}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    (folder / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": ["<new>", "<more>"]}))
    backend, _ = opened(folder)
    ids = backend.encode("<new><more>").ids
    assert ids == [267, 268] and backend.decode(ids, skip_special_tokens=True) == ""
    edit(folder, added_tokens_decoder={"267": {"content": "<other>", "special": False}}, eos_token="<other>")
    backend, roles = opened(folder)
    assert backend.encode("<other>").ids == [267] == [backend.token_to_id(roles["eos_token"])]
    assert len(backend.encode("<new>").ids) > 1  # added_tokens.json does not count beside added_tokens_decoder


def test_a_declared_id_is_kept(folder):
    """A vocabulary that the model pads before its added tokens."""
    edit(folder, added_tokens_decoder={"272": {"content": "<b>"}, "270": {"content": "<a>", "special": True}})
    backend, _ = opened(folder)
    assert backend.encode("<a><b>").ids == [270, 272]
    (folder / "tokenizer_config.json").unlink()
    (folder / "added_tokens.json").write_text('{"<c>": 269}')
    assert opened(folder)[0].encode("<c>").ids == [269]


@pytest.mark.parametrize("kind", ["LlamaTokenizerFast", "LlamaTokenizer", "GemmaTokenizerFast"])
@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, [0, 7]),
        ({"add_bos_token": True}, [0, 7]),
        ({"add_bos_token": False}, [7]),
        ({"add_bos_token": None, "add_eos_token": True}, [0, 7, 2]),
        ({"add_bos_token": False, "add_eos_token": True}, [7, 2]),
    ],
)
def test_classes_of_llama_say_what_surrounds_a_text(folder, kind, settings, expected):
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = backend.decode([7])
    template = processors.TemplateProcessing("<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    for processor in (template, *([processors.ByteLevel()] if settings else [])):
        backend.post_processor = processor
        backend.save(str(folder / "tokenizer.json"))
        edit(folder, tokenizer_class=kind, **settings)
        assert opened(folder)[0].encode(text).ids == expected
        edit(folder, tokenizer_class="PreTrainedTokenizerFast")  # tokenizer.json alone says it
        assert opened(folder)[0].encode(text).ids == ([0, 7] if processor is template else [7])


def test_a_leading_space_of_gpt2(folder):
    edit(folder, tokenizer_class="GPT2Tokenizer", add_prefix_space=True)
    assert opened(folder)[0].encode("the").ids == opened(folder)[0].encode(" the").ids
    edit(folder, add_prefix_space=False)
    assert opened(folder)[0].encode("the").ids != opened(folder)[0].encode(" the").ids


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"added_tokens_decoder": []}, "added_tokens_decoder must be an object"),
        ({"added_tokens_decoder": {"x": {"content": "a"}}}, "the id of an added token is 'x', must be a number"),
        ({"added_tokens_decoder": {"-1": {"content": "a"}}}, "the id of an added token is -1"),
        ({"added_tokens_decoder": {"1": 7}}, r"added_tokens_decoder\[1\] is 7, must be a text or an object"),
        ({"added_tokens_decoder": {"1": {"content": "\ud800"}}}, "must be a text or an object"),
        ({"bos_token": {"text": "a"}}, "bos_token is {'text': 'a'}, must be a text or an object with content"),
        ({"additional_special_tokens": "<a>"}, "additional_special_tokens must be a list"),
        ({"extra_special_tokens": [3]}, "extra_special_tokens is 3, must be a text"),
        (
            {"added_tokens_decoder": {"5": {"content": "<new>"}}},
            "tokenizer_config.json: '<new>' is token 5, the next one after the vocabulary is 267",
        ),
        (
            {"added_tokens_decoder": {"70000": {"content": "<new>"}}},
            "tokenizer_config.json: '<new>' is token 70000, the next one after the vocabulary is 267",
        ),
        ({"tokenizer_class": "LlamaTokenizer", "bos_token": None, "add_bos_token": True}, "but there is no bos_token"),
    ],
)
def test_broken_settings(folder, settings, words):
    edit(folder, **settings)
    with pytest.raises(InputError, match=words) as caught:
        opened(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "part, value, words",
    [
        (
            "normalizer",
            {"type": "Precompiled", "precompiled_charsmap": "BAAAAAEAAAA="},  # one unit, which leads to others
            "tokenizer.json: precompiled_charsmap leads out",
        ),
        (
            "normalizer",
            {"type": "Precompiled", "precompiled_charsmap": {}},
            "tokenizer.json: broken tokenizer",
        ),
        (
            "post_processor",
            {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}], "pair": []}
            | {"special_tokens": {}},
            "the template has 'x', which special_tokens lacks",
        ),
    ],
)
def test_what_the_package_panics_at_is_one_line(folder, part, value, words, capfd):
    content = read_json(folder / "tokenizer.json")
    (folder / "tokenizer.json").write_text(json.dumps(content | {part: value}))
    with pytest.raises(InputError, match=words) as caught:
        opened(folder)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


JSON = st.recursive(
    st.sampled_from([None, True, False, -1, 3, 1e30, "", "<s>", "<new>", "\ud800", "LlamaTokenizer", "3"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["content", "special", "3"]), inner),
    max_leaves=5,
)
KEYS = [
    "tokenizer_class",
    "added_tokens_decoder",
    "bos_token",
    "eos_token",
    "add_bos_token",
    "add_eos_token",
    "x_token",
]


@hypothesis.settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    settings=st.dictionaries(st.sampled_from([*KEYS, "extra_special_tokens", "additional_special_tokens"]), JSON),
    roles=st.dictionaries(st.sampled_from(KEYS), JSON),
    added=st.dictionaries(st.sampled_from(["<new>", "<s>", ""]), JSON),
)
def test_any_settings(folder, settings, roles, added):
    """There is a tokenizer or one line."""
    for name, content in (("tokenizer_config", settings), ("special_tokens_map", roles), ("added_tokens", added)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    try:
        opened(folder)[0].encode("the<s><new>")
    except InputError as error:
        assert "\n" not in str(error)


def test_a_role_that_the_model_has_no_row_for(folder):
    (folder / "config.json").write_text(json.dumps({"vocab_size": 267}))
    edit(folder, bos_token="<nowhere>")
    with pytest.raises(InputError, match="bos_token is '<nowhere>', which is not in the vocabulary"):
        opened(folder)
    edit(folder, bos_token=None, pad_token="<nowhere>")  # never in a prompt
    assert opened(folder)[0].token_to_id("<nowhere>") == 267
