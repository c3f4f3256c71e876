"""Tokens of past turns: a conversation that comes back has those that were drawn, and the same text."""

import pytest
import tiny
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from ellm.text.sampled_turns import SampledTurns
from ellm.text.tokenizer import Tokenizer

END = "<|im_end|>"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.write_tokenizer(folder)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_tokens([AddedToken("<think>"), AddedToken("</think>")])
    return Tokenizer(backend, source="model", special_tokens={"eos_token": END})


def turns(tokenizer, **options):
    return SampledTurns(tokenizer, tokenizer.backend.get_added_tokens_decoder(), **options)


def letters(tokenizer, text):
    """A text as the tokens of its bytes: never what it is encoded as."""
    return [one for character in text.encode() for one in tokenizer.encode(chr(character))] if text.isascii() else []


def ids_of(tokenizer, *parts):
    """Text as it is encoded, but lists as they are."""
    return [one for part in parts for one in (tokenizer.encode(part) if isinstance(part, str) else part)]


def test_the_tokens_of_a_past_turn_are_those_that_were_drawn(tokenizer):
    drawn = letters(tokenizer, "the the er in")
    assert drawn != tokenizer.encode("the the er in")
    known = turns(tokenizer)
    prompt = tokenizer.encode("hi\n")
    known.add(prompt, [*drawn, *tokenizer.encode(END)])
    again = tokenizer.encode("hi\nthe the er in" + END + "\nthe")
    assert known.restore(again) == ids_of(tokenizer, "hi\n", drawn, END + "\nthe")
    assert tokenizer.decode(known.restore(again), False) == tokenizer.decode(again, False)
    second = letters(tokenizer, "in the")
    known.add(known.restore(again), second)
    third = tokenizer.encode("hi\nthe the er in" + END + "\nthein the" + END)
    assert known.restore(third) == ids_of(tokenizer, "hi\n", drawn, END + "\nthe", second, END)


def test_what_is_another_text_is_left_as_it_is(tokenizer):
    known = turns(tokenizer)
    drawn = letters(tokenizer, "the er")
    known.add(tokenizer.encode("hi\n"), [*drawn, *tokenizer.encode(END)])
    for text in ("ho\nthe er" + END, "hi\n", "hi\nin the er", "h"):
        assert known.restore(tokenizer.encode(text)) == tokenizer.encode(text)
    # As far as it is the same text:
    assert known.restore(tokenizer.encode("hi\nthe an" + END)) == ids_of(tokenizer, "hi\n", drawn[:4], "an" + END)
    # A salt is a part of the key:
    text = tokenizer.encode("hi\nthe er" + END)
    assert known.restore(text, b"x") == text != known.restore(text)


def test_text_that_spells_a_token_is_not_that_token(tokenizer):
    known = turns(tokenizer)
    known.add(tokenizer.encode("hi\n"), tokenizer.encode("<think>"))
    spelled = ids_of(tokenizer, "hi\n", letters(tokenizer, "<think>"))
    assert known.restore(spelled) == spelled
    known.add(tokenizer.encode("ho\n"), letters(tokenizer, "<think>"))
    token = tokenizer.encode("ho\n<think>")
    assert known.restore(token) == token


def test_the_answer_that_fits_best_is_taken(tokenizer):
    known = turns(tokenizer)
    for text in ("the", "the er in", "an"):
        known.add(tokenizer.encode("hi\n"), letters(tokenizer, text))
    found = known.restore(tokenizer.encode("hi\nthe er in the"))
    assert found == ids_of(tokenizer, "hi\n", letters(tokenizer, "the er in"), " the")


def test_it_is_bounded(tokenizer):
    known = turns(tokenizer, most_tokens=20)
    for index in range(10):
        known.add(tokenizer.encode(f"{index}\n"), letters(tokenizer, "the the"))
    assert known.restore(tokenizer.encode("0\nthe the")) == tokenizer.encode("0\nthe the")
    assert known.restore(tokenizer.encode("9\nthe the")) != tokenizer.encode("9\nthe the")
    assert known._tokens <= 20 and sum(known._counts.values()) == len(known._answers) == len(known._lengths) == 2


def test_prompt_and_answer_may_be_cut_elsewhere(tokenizer):
    known = turns(tokenizer)
    prompt = ids_of(tokenizer, "hi" + END + "a t")
    known.add(prompt, tokenizer.encode("he in"))
    again = tokenizer.encode("hi" + END + "a the in" + END)
    assert again[: len(prompt)] != prompt
    assert known.restore(again) == ids_of(tokenizer, prompt, "he in", END)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), text=st.text("the riané€<>|_", max_size=20), more=st.text("the €", max_size=6))
def test_the_text_stays_the_same(tokenizer, data, text, more):
    known = turns(tokenizer)
    prompt = tokenizer.encode("hi\n")
    drawn = tokenizer.encode(text)
    for _ in range(data.draw(st.integers(0, 3))):  # some of the tokens as bytes
        at = data.draw(st.integers(0, max(0, len(drawn) - 1)))
        if drawn and (said := tokenizer.decode([drawn[at]])).isascii() and said:
            drawn[at : at + 1] = letters(tokenizer, said)
    known.add(prompt, drawn)
    again = tokenizer.encode("hi\n" + text + more)
    assert tokenizer.decode(known.restore(again), False) == tokenizer.decode(again, False)
