"""Token ids to pieces: special tokens are seen and not shown, and a text goes on where its prompt ends."""

import pytest
import tiny
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from ellm.text.families import Chat
from ellm.text.token_stream import TokenStream
from ellm.text.tokenizer import Tokenizer

WORDS = ["\u2581", "\u2581the", "a", "é", "<0xE2>", "<0x82>", "<0xAC>", "<0x0A>", "<s>", "<unk>"]


@pytest.fixture(scope="module")
def bytes_of_text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.write_tokenizer(folder)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_tokens([AddedToken("<think>"), AddedToken("</think>")])
    return Tokenizer(backend, source="model", special_tokens={"eos_token": "<|im_end|>"})


@pytest.fixture(scope="module", params=["strip", "metaspace"])
def words(request):
    """Decoders that strip the space of a text's first word."""
    backend = tokenizers.Tokenizer(
        models.BPE(vocab={word: i for i, word in enumerate(WORDS)}, merges=[], byte_fallback=True, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = {
        "metaspace": decoders.Metaspace(prepend_scheme="first"),
        "strip": decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        ),
    }[request.param]
    backend.add_special_tokens(["<s>", "<unk>"])
    return Tokenizer(backend, source="model", special_tokens={"bos_token": "<s>"})


def read(tokenizer, ids, prompt=(), stops=(), chat=None):
    """Text of the pieces before a stop string, and whether there was one."""
    reader, pieces = tokenizer.reader(list(prompt), stops, chat), []
    for number in ids:
        pieces += reader.push(number)
        if reader.stopped:
            break
    return "".join(piece.text for piece in [*pieces, *reader.finish()]), reader.stopped


def test_a_text_goes_on_where_its_prompt_ends(words):
    prompt = [words.backend.token_to_id(word) for word in ("<s>", "\u2581the", "<s>")]
    ids = [words.backend.token_to_id(word) for word in ("\u2581the", "a", "\u2581", "a")]
    assert read(words, ids, prompt) == (" thea a", False)
    assert read(words, ids, prompt[:1]) == ("thea a", False)
    assert read(words, ids, prompt, chat=Chat()) == ("thea a", False)


SOME = st.lists(st.sampled_from([*WORDS[:4], "<0xE2> <0x82> <0xAC>", "<0x0A>", "<s>"]), max_size=12)


@settings(max_examples=100, deadline=None)
@given(prompt=SOME, answer=SOME)
def test_prompt_and_text_are_the_text_of_both(words, prompt, answer):
    prompt, ids = ([words.backend.token_to_id(word) for word in " ".join(many).split()] for many in (prompt, answer))
    assert words.decode(prompt) + read(words, ids, prompt)[0] == words.decode(prompt + ids)


@settings(max_examples=100, deadline=None)
@given(prompt=st.text(max_size=10), ids=st.lists(st.integers(0, 270), max_size=30))
def test_prompt_and_text_are_the_text_of_both_for_bytes(bytes_of_text, prompt, ids):
    prompt = bytes_of_text.encode(prompt + ".")
    text, _ = read(bytes_of_text, ids, prompt)
    assert bytes_of_text.decode(prompt) + text == bytes_of_text.decode(prompt + ids)


def test_a_long_prompt_is_not_decoded():
    class Counting:
        seen = 0

        def decode(self, ids, skip_special=True):
            self.seen += len(ids)
            return ""

    counting = Counting()
    TokenStream(counting, prompt=[5] * 100_000)
    assert counting.seen < 1000


def test_special_tokens_are_not_shown_and_stop(bytes_of_text):
    ids = bytes_of_text.encode("the<|im_start|> a<|im_end|>in")
    assert read(bytes_of_text, ids) == ("the ain", False)
    assert read(bytes_of_text, ids, stops=["<|im_end|>"]) == ("the a", True)
    assert read(bytes_of_text, ids, stops=["e<|im_start|> a<"]) == ("th", True)
    assert read(bytes_of_text, ids, stops=["<|im_end|>x", "never"]) == ("the ain", False)


def test_reasoning_is_told_from_the_answer_of_a_chat_alone(bytes_of_text):
    ids = bytes_of_text.encode("<think>\nthe\n</think>\n\nan er<|im_end|>")
    reader = bytes_of_text.reader([], chat=Chat())
    pieces = [piece for number in ids for piece in reader.push(number)] + reader.finish()
    assert "".join(piece.text for piece in pieces if piece.kind == "reasoning") == "the"
    assert "".join(piece.text for piece in pieces if piece.kind == "answer") == "an er"
    assert read(bytes_of_text, ids) == ("<think>\nthe\n</think>\n\nan er", False)
    assert read(bytes_of_text, ids, stops=["</think>\n"], chat=Chat()) == ("the", True)
    opened = bytes_of_text.encode("hi<|im_start|>assistant\n<think>\n")
    reader = bytes_of_text.reader(opened, chat=Chat())
    assert reader.in_reasoning and [piece.kind for piece in reader.push(ids[2])] == ["reasoning"]


def test_marks_that_are_special_tokens_are_in_the_text_of_a_plain_prompt(tmp_path):
    tiny.write_tokenizer(tmp_path)
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.add_special_tokens(["[THINK]", "[/THINK]"])
    tokenizer = Tokenizer(backend, source="model", special_tokens={})
    ids = tokenizer.encode("[THINK]a[/THINK]in<|im_end|>")
    assert read(tokenizer, ids) == ("[THINK]a[/THINK]in", False)
    assert read(tokenizer, ids, chat=Chat()) == ("ain", False)
