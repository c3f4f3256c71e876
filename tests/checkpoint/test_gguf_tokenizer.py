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


def byte_level(tmp_path, **overrides):
    return write_tokenizer(tmp_path / "bpe.gguf", tiny_gguf.add_byte_level, **overrides)


def pieces(tokenizer, text):
    return [tokenizer.decode([number], skip_special=False) for number in tokenizer.encode(text, add_special=False)]


def test_special_and_user_defined_tokens_stay_whole(tmp_path):
    tokenizer = build_tokenizer(GGUFFile(byte_level(tmp_path)))
    assert pieces(tokenizer, "<|im_end|>a<think> the") == ["<|im_end|>", "a", "<think> ", "the"]
    assert tokenizer.decode(tokenizer.encode("<|im_end|>a<think> the")) == "a<think> the"


def test_bos_is_added_where_the_model_wants_it(tmp_path):
    def first(**metadata):
        return build_tokenizer(GGUFFile(byte_level(tmp_path, **metadata))).encode("a")[0]

    bos, letter = 0, first()
    assert letter != bos
    assert first(add_bos_token=True) == bos
    assert first(pre="llama-bpe") == bos
    assert first(pre="llama-bpe", add_bos_token=False) == letter


def test_eos_is_added_where_the_file_says_so(tmp_path):
    tokenizer = build_tokenizer(GGUFFile(byte_level(tmp_path, add_eos_token=True)))
    assert tokenizer.encode("a")[-1] == 2
    assert tokenizer.encode("a", add_special=False) == tokenizer.encode("a")[:-1]


def test_a_token_twice(tmp_path):
    """Padding and reserved tokens may have a text in common; two tokens in use may not."""
    tokens = [*"abc", "a", "b", "<unused>", "<unused>"]
    normal, control, unused = 1, 3, 5
    kinds = [unused, normal, normal, normal, unused, control, control]
    tokenizer = build_tokenizer(
        GGUFFile(byte_level(tmp_path, tokens=tokens, token_type=kinds, merges=["a b"], bos_token_id=1))
    )
    assert tokenizer.encode("abc") == [3, 1, 2]
    assert tokenizer.decode([3, 1, 2]) == "abc"
    kinds[4] = normal
    with pytest.raises(InputError, match=r"tokens has 'b' twice, as 1 and 4, both in use"):
        build_tokenizer(GGUFFile(byte_level(tmp_path, tokens=tokens, token_type=kinds, merges=["a b"])))


def test_missing_pre_tokenizer_is_said(tmp_path):
    def drop_pre(writer):
        tiny_gguf.add_byte_level(writer)
        del writer.kv_data[0]["tokenizer.ggml.pre"]

    tokenizer = build_tokenizer(GGUFFile(write_tokenizer(tmp_path / "x.gguf", drop_pre)))
    assert len(tokenizer.notes) == 1 and "tokenizer.ggml.pre is missing" in tokenizer.notes[0]
    assert pieces(tokenizer, "1234") == list("1234")
    assert not build_tokenizer(GGUFFile(byte_level(tmp_path))).notes


def test_merges_that_make_no_token_are_harmless(tmp_path):
    tokenizer = build_tokenizer(GGUFFile(byte_level(tmp_path, merges=["nowhere either", "a b", "t h"])))
    assert pieces(tokenizer, "ab th") == ["a", "b", " ", "th"]


def test_control_tokens_by_name(tmp_path):
    """A file that calls a well-known control token ordinary is not believed."""
    tokenizer = build_tokenizer(GGUFFile(byte_level(tmp_path, token_type=[1] * 268)))
    assert tokenizer.encode("<|im_end|>a", add_special=False)[0] == 2
    assert tokenizer.decode([2]) == ""


def test_spaces_of_sentencepiece(tmp_path):
    """The text, and the text behind each special token, begins with a space more; decoding drops the first."""
    tokenizer = build_tokenizer(GGUFFile(sentencepiece(tmp_path)))
    the = 259 + 8
    assert tokenizer.encode("the</s>the<s> the") == [1, the, 2, the, 1, 259, the]
    assert tokenizer.decode([1, the, 2, the]) == tokenizer.decode([the, 2, the]) == "the the"
    assert tokenizer.encode("") == [1]
    without = build_tokenizer(GGUFFile(sentencepiece(tmp_path, add_space_prefix=False)))
    assert without.encode("the</s>the") == [1, 259 + 7, 2, 259 + 7]
    assert without.decode(without.encode(" the")) == " the"


def test_scores_may_be_whole_numbers(tmp_path):
    scores = [0] * 259 + [-number for number in range(15)]
    tokenizer = build_tokenizer(GGUFFile(sentencepiece(tmp_path, scores=scores)))
    assert tokenizer.encode("the") == [1, 259 + 8]


def test_phi3_swallows_the_space_behind_special_tokens(tmp_path):
    def named(writer):
        tiny_gguf.add_sentencepiece(writer)
        writer.add_name("Phi-3 mini")

    tokenizer = build_tokenizer(GGUFFile(write_tokenizer(tmp_path / "x.gguf", named)))
    the = 259 + 8
    assert tokenizer.encode("</s> \n the<s> the") == [1, 2, the, 1, 259, the]


def test_longer_special_tokens_are_found_first_in_the_whole_text(tmp_path):
    tokens = [*"abcdefgh", *"xyz", "abc", "bcde", *(f"<{number}>" for number in range(5000))]
    kinds = [1] * 11 + [3] * 5002
    roles = dict(bos_token_id=0, eos_token_id=1, merges=["x y"])
    tokenizer = build_tokenizer(GGUFFile(byte_level(tmp_path, tokens=tokens, token_type=kinds, **roles)))
    assert tokenizer.encode("abcde") == [0, 12]
    assert tokenizer.encode("abcabcd") == [11, 11, 3]
    many = [13 + number for number in range(5000)] * 2
    assert tokenizer.encode("x".join(tokens[one] for one in many))[::2] == many


@pytest.mark.parametrize("add", [tiny_gguf.add_byte_level, tiny_gguf.add_sentencepiece])
def test_half_a_surrogate_pair_is_refused(tmp_path, add):
    with pytest.raises(InputError, match="not valid Unicode"):
        build_tokenizer(GGUFFile(write_tokenizer(tmp_path / "x.gguf", add))).encode("a\ud800")


def test_a_mark_keeps_control_tokens_text(tmp_path):
    backend = build_tokenizer(GGUFFile(byte_level(tmp_path))).backend
    text = "<|im_e\ufdd0nd|>a<|im_end|>"
    ids = backend.without("\ufdd0").encode(text).ids
    assert ids.count(2) == 1 and ids[-1] == 2
    assert backend.decode(ids, skip_special_tokens=False) == "<|im_end|>a<|im_end|>"


@pytest.mark.parametrize("kinds", [{}, {"token_type": [1] * 268}])
def test_end_of_turn_ends_an_answer_by_its_key_and_by_its_name(tmp_path, kinds):
    """The file's end of sequence is <|im_start|>, the names are <|endoftext|> and <|im_end|>."""
    assert build_tokenizer(GGUFFile(byte_level(tmp_path, eos_token_id=1, **kinds))).eos_ids == {0, 1, 2}
    assert build_tokenizer(GGUFFile(byte_level(tmp_path, eot_token_id=5, **kinds))).eos_ids == {0, 2, 5}


@pytest.mark.parametrize(
    "metadata, words",
    [
        (dict(model="bert"), "tokenizer.ggml.model is 'bert', ellm has gpt2, gemma4 and llama"),
        (dict(model="llama"), "tokenizer.ggml.scores is missing"),
        (dict(pre="martian"), "tokenizer.ggml.pre is 'martian', none of the 90 that ellm has"),
        (dict(tokens=[1, 2]), "tokenizer.ggml.tokens must be an array of strings"),
        (dict(tokens=["a", "a"]), "tokenizer.ggml.tokens has 'a' twice, as 0 and 1, both in use"),
        (dict(tokens="abc"), "tokenizer.ggml.tokens is str 'abc', must be list"),
        (dict(merges=["a b c"]), "tokenizer.ggml.merges has 'a b c', must be pairs"),
        (dict(merges=["ab"]), "tokenizer.ggml.merges has 'ab', must be pairs"),
        (dict(token_type=[1]), "tokenizer.ggml.token_type has 1 values, must have 268 of int"),
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
