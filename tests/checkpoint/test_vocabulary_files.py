"""Vocabularies in other files than tokenizer.json: committed ids of their authors' libraries, and live ones."""

import json

import pytest
import vocabulary_files as files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ellm.checkpoint.folder_tokenizer import build
from ellm.checkpoint.json_file import read_json
from ellm.system.errors import InputError


def opened(folder):
    built = build(folder, read_json(folder / "config.json"), read_json(folder / "tokenizer_config.json"))
    assert built
    return built


def edit(folder, file="tokenizer_config.json", **values):
    (folder / file).write_text(json.dumps(read_json(folder / file) | values))


@pytest.fixture(params=files.FORMS)
def form(request):
    return request.param


def test_committed_ids(tmp_path, form):
    files.write(tmp_path, form)
    backend, _ = opened(tmp_path)
    expected = json.loads(files.FILE.read_text())[form]
    for text, ids in zip(files.texts(form), expected, strict=True):
        assert backend.encode(text, add_special_tokens=False).ids == ids, text
        if form not in files.TRAINED and not (form == "qwen2" and "e\u0301" in text):  # which is composed
            assert backend.decode(ids, skip_special_tokens=False) == text


@pytest.mark.oracle
def test_live_ids(tmp_path, form):
    files.write(tmp_path, form)
    backend, _ = opened(tmp_path)
    for text, ids in zip(files.texts(form), files.peer(tmp_path, form), strict=True):
        assert backend.encode(text, add_special_tokens=False).ids == ids, text


@pytest.mark.parametrize(
    "form, before", [("bpe", ["<s>"]), ("unigram", ["<s>"]), ("llama3", ["<s>"]), ("tekken", ["<s>"]), ("kimi", [])]
)
def test_what_surrounds_a_text(tmp_path, form, before):
    files.write(tmp_path, form)
    backend, roles = opened(tmp_path)
    assert (roles["bos_token"], roles["eos_token"]) == ("<s>", "</s>")
    assert backend.encode("").tokens == before
    edit(tmp_path, add_bos_token=False, add_eos_token=True)
    assert opened(tmp_path)[0].encode("").tokens == ["</s>"]


def test_spaces_between_added_tokens(tmp_path):
    """As transformers: each stretch of text begins with a space, unless `legacy` is false; then the first does."""
    files.write(tmp_path, "bpe")
    assert opened(tmp_path)[0].encode("a</s>a").tokens == ["<s>", "\u2581a", "</s>", "\u2581a"]
    edit(tmp_path, legacy=False)
    assert opened(tmp_path)[0].encode("a</s>a").tokens == ["<s>", "\u2581a", "</s>", "a"]


def test_special_tokens_of_an_old_tekken(tmp_path):
    """Mistral's first such files do not name them."""
    files.write(tmp_path, "tekken")
    content = read_json(tmp_path / "tekken.json")
    content["config"] |= {"default_num_special_tokens": 30, "default_vocab_size": 280}
    content.pop("special_tokens")
    (tmp_path / "tekken.json").write_text(json.dumps(content))
    backend, roles = opened(tmp_path)
    assert backend.encode("[TOOL_CONTENT]a").ids == [1, 19, 30 + ord("a")]
    assert roles["pad_token"] == "<pad>" and backend.token_to_id("<pad>") == 11


def test_the_model_family_names_the_class(tmp_path):
    files.write(tmp_path, "qwen2")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(
        InputError, match=r"vocab.json: tokenizer_class is '', ellm knows how GPT2Tokenizer and Qwen2To"
    ):
        opened(tmp_path)
    edit(tmp_path, "config.json", model_type="qwen3")
    edit(tmp_path, tokenizer_class="PreTrainedTokenizerFast")
    assert opened(tmp_path)[0].encode("the 12").tokens == ["the", "\u0120", "1", "2"]


@pytest.mark.parametrize(
    "form, file, content, words",
    [
        ("bpe", "tokenizer.model", b"\xff\xff", "is not a SentencePiece model"),
        ("bpe", "tokenizer.model", b"", "is empty"),
        ("bpe", "tokenizer.model", b"\x12\x02\x18\x03", "model_type is 3, ellm reads Unigram"),
        ("bpe", "tokenizer.model", b"\x12\x02\x18\x02", "unk_id is 0, there are 0 pieces"),
        ("bpe", "tokenizer.model", b"version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer"),
        ("llama3", "tokenizer.model", b"YQ== 0\nYg== 2\n", "line 2 must be a token in base64 and the rank 1"),
        ("kimi", "tiktoken.model", b"YQ== 0\n!! 1\n", "line 2: "),
        ("kimi", "tiktoken.model", b"YQ== 0\nYQ== 1\n", "two of its 2 tokens are the same"),
        ("kimi", "tokenizer_config.json", b"{}", "the model's own code, ellm knows Kimi's"),
        ("llama3", "config.json", b'{"model_type": "chatglm"}', "the model's own code, ellm knows Llama 3's"),
        ("llama3", "tokenizer_config.json", b"{}", "added_tokens_decoder of tokenizer_config.json, which is missing"),
        ("tekken", "tekken.json", b'{"config": {}}', "is no tokenizer of Mistral"),
        ("gpt2", "merges.txt", b"a b c\n", "broken vocab.json or merges.txt"),
        ("gpt2", "vocab.json", b"[]", "broken vocab.json or merges.txt"),
    ],
)
def test_broken_files(tmp_path, form, file, content, words):
    files.write(tmp_path, form)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError) as caught:
        opened(tmp_path)
    assert words in str(caught.value) and "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """The files of each form."""
    found = {}
    for form in files.FORMS:
        folder = tmp_path_factory.mktemp(form)
        files.write(folder, form)
        found[form] = {path.name: path.read_bytes() for path in folder.iterdir()}
    return found


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files(tmp_path, originals, data):
    """Whatever bytes are changed, there is a tokenizer or one line."""
    whole = originals[data.draw(st.sampled_from(files.FORMS))]
    for path in tmp_path.iterdir():
        path.unlink()
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)
    name = data.draw(st.sampled_from(sorted(whole.keys() - {"config.json", "tokenizer_config.json"})))
    content = bytearray(whole[name])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / name).write_bytes(content[: data.draw(st.sampled_from([None, len(content) // 2, 40]))])
    try:
        opened(tmp_path)[0].encode("the 12 日本<s>")
    except InputError as error:
        assert "\n" not in str(error)
