"""Tokenizers built from GGUF metadata: committed ids of transformers, and live ones under the oracle marker."""

import json
import re

import gguf
import pytest
import tiny
import tiny_gguf
import token_peer
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel

from ellm.checkpoint import open_checkpoint
from ellm.checkpoint.gguf_file import GGUFFile
from ellm.checkpoint.gguf_tokenizer import build_tokenizer
from ellm.system.errors import InputError

MESSAGES = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module")
def smollm2():
    with open_checkpoint("smollm2") as checkpoint:
        return checkpoint.tokenizer


def write_tokenizer(path, add, **overrides):
    """A GGUF file that has nothing but a tokenizer."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    add(writer)
    for key, value in overrides.items():
        data = writer.kv_data[0]
        data[f"tokenizer.ggml.{key}"] = gguf.gguf_writer.GGUFValue(value, kind_of(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def kind_of(value):
    if isinstance(value, list):
        return gguf.GGUFValueType.ARRAY
    return {bool: gguf.GGUFValueType.BOOL, int: gguf.GGUFValueType.UINT32, str: gguf.GGUFValueType.STRING}[type(value)]


def test_committed_ids(smollm2):
    cases = json.loads(token_peer.FILE.read_text())
    assert [case["text"] for case in cases] == token_peer.TEXTS
    for case in cases:
        assert smollm2.encode(case["text"]) == case["ids"], case["text"]


def test_conventions(smollm2):
    assert smollm2.encode("Hello world 123") == [19556, 905, 216, 33, 34, 35]
    assert (smollm2.bos_id, smollm2.eos_ids, smollm2.vocab_size) == (1, {0, 2, 4}, 49152)  # as llama.cpp's
    prompt = smollm2.render(MESSAGES)
    assert prompt.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert prompt.endswith(f"<|im_start|>user\n{MESSAGES[0]['content']}<|im_end|>\n<|im_start|>assistant\n")
    assert smollm2.chat(MESSAGES) == smollm2.encode(prompt)
    assert smollm2.chat(MESSAGES)[0] == 1


@settings(max_examples=200, deadline=None)
@given(text=TEXT)
def test_texts_come_back(smollm2, text):
    spelled = "".join(piece for piece, _ in ByteLevel(add_prefix_space=False).pre_tokenize_str(text))
    assume(all(smollm2.backend.token_to_id(letter) is not None for letter in spelled))  # SmolLM2 lacks some bytes
    assert smollm2.decode(smollm2.encode(text), skip_special=False) == text


@pytest.mark.oracle
@settings(max_examples=300, deadline=None)
@given(text=st.one_of(TEXT, st.text("ab1 2\n\t.'s"), st.sampled_from(token_peer.TEXTS)))
def test_ids_equal_transformers(smollm2, peer, text):
    assert smollm2.encode(text) == peer(text).input_ids


@pytest.mark.oracle
def test_chat_equals_transformers(smollm2, peer):
    history = [
        *MESSAGES,
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "  And\n\n1 of Italy?"},
    ]
    for messages in (MESSAGES, history, [{"role": "system", "content": "Be brief."}, *MESSAGES]):
        for generate in (True, False):
            arguments = dict(tokenize=False, add_generation_prompt=generate)
            assert smollm2.render(messages, generate) == peer.apply_chat_template(messages, **arguments)
        assert smollm2.chat(messages) == peer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]


@pytest.mark.oracle
def test_unchanged_transformers_differs_only_at_digits_after_space(smollm2):
    from transformers import AutoTokenizer

    peer = AutoTokenizer.from_pretrained(str(token_peer.GGUF.parent), gguf_file=token_peer.GGUF.name)
    for text in token_peer.TEXTS:
        if not re.search(r"\s\s\d|[\t\n]\d|[²³½٣Ⅳ]", text):
            assert smollm2.encode(text) == peer(text).input_ids, text


@pytest.fixture(scope="module")
def peer():
    return token_peer.load()


SENTENCES = ["the an", "then an é the", " the", "  the  an", "an\nthe 42 ü 🌍", "", " ", "</s>the<s> an", "<unk>thé"]


def sentencepiece(tmp_path, **overrides):
    return write_tokenizer(tmp_path / "spm.gguf", tiny_gguf.add_sentencepiece, **overrides)


def test_sentencepiece(tmp_path):
    tokenizer = build_tokenizer(GGUFFile(sentencepiece(tmp_path)))
    the, an = 259 + 8, 259 + 13
    assert tokenizer.encode("the an") == [1, the, an]
    assert tokenizer.encode("the ü", add_special=False) == [the, 259, 3 + 0xC3, 3 + 0xBC]  # bytes of an unknown letter
    assert tokenizer.decode([1, the, an]) == "the an"
    assert tokenizer.decode(tokenizer.encode("the  an ü\n")) == "the  an ü\n"
    assert build_tokenizer(GGUFFile(sentencepiece(tmp_path, add_bos_token=False))).encode("the") == [the]


@pytest.mark.oracle
@pytest.mark.parametrize("text", SENTENCES)
def test_sentencepiece_equals_transformers(tmp_path, text):
    from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer

    path = sentencepiece(tmp_path)
    architecture, metadata, _ = get_gguf_tokenizer(str(path))
    peer, _ = convert_gguf_tokenizer(architecture, metadata)
    ids = build_tokenizer(GGUFFile(path)).encode(text, add_special=False)
    assert ids == peer.encode(text, add_special_tokens=False).ids
    assert build_tokenizer(GGUFFile(path)).decode(ids) == peer.decode(ids)


def byte_level(tmp_path, **overrides):
    return write_tokenizer(tmp_path / "bpe.gguf", tiny_gguf.add_byte_level, **overrides)


def pieces(tokenizer, text):
    return [tokenizer.decode([number], skip_special=False) for number in tokenizer.encode(text, add_special=False)]


def test_special_and_user_defined_tokens_stay_whole(tmp_path):
    tokenizer = build_tokenizer(GGUFFile(byte_level(tmp_path)))
    assert pieces(tokenizer, "<|im_end|>a<think> the") == ["<|im_end|>", "a", "<think> ", "the"]
    assert tokenizer.decode(tokenizer.encode("<|im_end|>a<think> the")) == "a<think> the"


@pytest.mark.parametrize("pre", ["smollm", "default", "gpt-2", "llama-bpe", "qwen2", "tekken"])
def test_pre_tokenizers_cut_at_the_same_places_as_their_rule(tmp_path, pre):
    text = "it's 1234 cafés\n\n  x=5,\t12"
    cuts = {
        "smollm": ["it", "'s", "Ġ", "1", "2", "3", "4", "ĠcafÃ©s", "ĊĊĠ", "Ġx", "=", "5", ",", "ĉ", "1", "2"],
        "gpt-2": ["it", "'s", "Ġ1234", "ĠcafÃ©s", "ĊĊĠ", "Ġx", "=", "5", ",", "ĉ", "12"],
        "llama-bpe": ["it", "'s", "Ġ", "123", "4", "ĠcafÃ©s", "ĊĊ", "Ġ", "Ġx", "=", "5", ",", "ĉ", "12"],
        "qwen2": ["it", "'s", "Ġ", "1", "2", "3", "4", "ĠcafÃ©s", "ĊĊ", "Ġ", "Ġx", "=", "5", ",", "ĉ", "1", "2"],
        "tekken": ["it", "'s", "Ġ", "1", "2", "3", "4", "ĠcafÃ©s", "ĊĊ", "Ġ", "Ġx", "=", "5", ",", "ĉ", "1", "2"],
    }
    backend = build_tokenizer(GGUFFile(byte_level(tmp_path, pre=pre))).backend
    assert [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)] == cuts.get(pre, cuts["gpt-2"])


def test_bos_is_added_where_the_model_wants_it(tmp_path):
    def first(**metadata):
        return build_tokenizer(GGUFFile(byte_level(tmp_path, **metadata))).encode("a")[0]

    bos, letter = 0, first()
    assert letter != bos
    assert first(add_bos_token=True) == bos
    assert first(pre="llama-bpe") == bos
    assert first(pre="llama-bpe", add_bos_token=False) == letter


@pytest.mark.parametrize("kinds", [{}, {"token_type": [1] * 268}])
def test_end_of_turn_ends_an_answer_by_its_key_and_by_its_name(tmp_path, kinds):
    """The file's end of sequence is <|im_start|>, the names are <|endoftext|> and <|im_end|>."""
    assert build_tokenizer(GGUFFile(byte_level(tmp_path, eos_token_id=1, **kinds))).eos_ids == {0, 1, 2}
    assert build_tokenizer(GGUFFile(byte_level(tmp_path, eot_token_id=5, **kinds))).eos_ids == {0, 2, 5}


@pytest.mark.parametrize(
    "metadata, words",
    [
        (dict(model="bert"), "tokenizer.ggml.model is 'bert', ellm has gpt2 and llama"),
        (dict(model="llama"), "tokenizer.ggml.scores is missing"),
        (dict(pre="martian"), "tokenizer.ggml.pre is 'martian', ellm has default"),
        (dict(tokens=[1, 2]), "tokenizer.ggml.tokens must be an array of strings"),
        (dict(tokens=["a", "a"]), "tokenizer.ggml.tokens has 'a' twice"),
        (dict(tokens="abc"), "tokenizer.ggml.tokens is str 'abc', must be list"),
        (dict(merges=["a b c"]), "tokenizer.ggml.merges must be pairs"),
        (dict(merges=["nowhere either"]), "broken tokenizer"),
        (dict(token_type=[1]), "tokenizer.ggml.token_type has 1 values, must have 268"),
        (dict(bos_token_id=1000), "tokenizer.ggml.bos_token_id is 1000, the vocabulary has 268 tokens"),
        (dict(eos_token_id=True), "tokenizer.ggml.eos_token_id is bool"),
        (dict(chat_template="x"), None),
    ],
)
def test_refused_tokenizers(tmp_path, metadata, words):
    file = GGUFFile(byte_level(tmp_path, **metadata))
    if words is None:  # a key under another name changes nothing
        assert build_tokenizer(file).render([]) == "<|im_start|>assistant\n"
        return
    with pytest.raises(InputError) as caught:
        build_tokenizer(file)
    assert words in str(caught.value) and str(file.path) in str(caught.value) and "\n" not in str(caught.value)


def test_template_that_does_not_compile(tmp_path):
    path = write_tokenizer(
        tmp_path / "x.gguf", lambda writer: (tiny_gguf.add_byte_level(writer), replace_template(writer, "{% if %}"))
    )
    with pytest.raises(InputError, match=r"chat_template does not compile"):
        build_tokenizer(GGUFFile(path)).render([])


def replace_template(writer, text):
    writer.kv_data[0]["tokenizer.chat_template"].value = text


def test_tiny_template(tmp_path):
    tokenizer = build_tokenizer(GGUFFile(byte_level(tmp_path)))
    assert tokenizer.render([{"role": "user", "content": "hi"}]).endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.vocab_size == 268 and len(tiny.SPECIAL) == 3
