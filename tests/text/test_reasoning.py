"""Reasoning is told from the answer: by tokens where the tokenizer has them, else by text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ellm.text.families import Style
from ellm.text.harmony import NEEDED as HARMONY

THINK = ("<think>", "</think>")
R1 = "{{ messages[0].content }}<think>\n...</think>"


def parsed(style, generated, prompt="", size=1000):
    """Reasoning and answer; text comes in pieces of `size` characters."""
    parser = style.parser(prompt)
    pieces = []
    for part in re.split("(" + "|".join(map(re.escape, parser.marks or ["\0"])) + ")", generated):
        if part in parser.marks:
            pieces += parser.mark(part)
        else:
            for begin in range(0, len(part), size):
                pieces += parser.text(part[begin : begin + size])
    pieces += parser.finish()
    assert all(piece.text for piece in pieces)
    return tuple("".join(piece.text for piece in pieces if piece.kind == kind) for kind in ("reasoning", "answer"))


CASES = [
    ("", "<think>\nabc d\n</think>\n\nThe answer", ("abc d", "The answer")),
    ("", "\n<think>abc</think>answer", ("abc", "answer")),
    ("", "\n\nanswer", ("", "\n\nanswer")),
    ("", "answer <think>no</think>", ("", "answer <think>no</think>")),
    ("", "<think>\n\n</think>\n\nanswer ", ("", "answer ")),
    ("", "<think>abc \n", ("abc", "")),
    ("", "<think>a</think> <think>b</think> c</think>d", ("ab", "c</think>d")),
    ("", "<think>a<think>b</think>c", ("a<think>b", "c")),
    ("", "a</think>b", ("", "a</think>b")),
    ("", "  ", ("", "  ")),
    ("x<think>\n", "abc\n</think>\n\nanswer", ("abc", "answer")),
    ("x<think>\n", "abc", ("abc", "")),
    ("x<think>\n\n</think>\n\n", "\nanswer", ("", "answer")),
    ("What is <think>?<|assistant|>", "A token.", ("", "A token.")),
]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("style", [Style(THINK, []), Style([], [R1])], ids=["tokens", "text"])
@pytest.mark.parametrize("prompt, generated, expected", CASES)
def test_blocks(style, prompt, generated, expected, size):
    assert parsed(style, generated, prompt, size) == expected


def test_text_that_spells_a_token_is_text():
    assert Style(THINK, [R1]).parser("").text("<think>") != []
    assert "".join(piece.text for piece in Style(THINK, [R1]).parser("").text("<think>a</think>")) == "<think>a</think>"


def test_half_a_mark_at_the_end_is_text():
    assert parsed(Style([], [R1]), "\n<thi") == ("", "\n<thi")
    assert parsed(Style([], [R1]), "<think>a</thi") == ("a</thi", "")
    assert parsed(Style([], [R1]), "\n<thi", "<think></think>") == ("", "<thi")


@given(
    parts=st.lists(st.sampled_from(["<think>", "</think>", "<thi", "nk>", "</", " ", "\n", "a"])),
    size=st.integers(1, 9),
)
def test_pieces_of_any_size_give_the_same(parts, size):
    text = "".join(parts)
    assert parsed(Style([], [R1]), text, size=size) == parsed(Style([], [R1]), text)


@pytest.mark.parametrize("pair", [("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"), ("◁think▷", "◁/think▷")])
def test_marks_of_other_families(pair):
    assert parsed(Style(pair, []), f"{pair[0]}a{pair[1]}b") == ("a", "b")
    assert parsed(Style([], [f"{{# {pair[1]} #}}"]), f"{pair[0]}a{pair[1]}b") == ("a", "b")


def test_a_model_without_marks_has_no_reasoning():
    assert parsed(Style(["<s>"], ["{{ messages }}"]), "<think>a</think>b") == ("", "<think>a</think>b")


OPEN = "<|start|>user<|message|>hi to=me<|end|><|start|>assistant"


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    "prompt, generated, expected",
    [
        (
            OPEN,
            "<|channel|>analysis<|message|>abc<|end|><|start|>assistant<|channel|>final<|message|>def",
            ("abc", "def"),
        ),
        (OPEN, "<|channel|>final<|message|>def <", ("", "def <")),
        (OPEN, "<|channel|>analysis<|message|>abc", ("abc", "")),
        (
            OPEN,
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>b<|end|>"
            "<|start|>assistant<|channel|>commentary<|message|>Let me see.<|end|><|start|>assistant<|channel|>final"
            "<|message|>c",
            ("a\n\nb", "Let me see.\n\nc"),
        ),
        (OPEN, "<|channel|>commentary to=functions.f json<|message|>{}", ("{}", "")),
        (OPEN, " to=functions.f<|channel|>commentary json<|message|>{}", ("{}", "")),
        (OPEN, "<|message|>def", ("", "def")),
        (OPEN, "Hello.", ("", "Hello.")),
        (OPEN, "<|channel|>analysis", ("", "")),
        (
            OPEN + "<|channel|>analysis<|message|>",
            "abc<|end|><|start|>assistant<|channel|>final<|message|>d",
            ("abc", "d"),
        ),
        (OPEN + "<|channel|>final<|message|>", "d", ("", "d")),
        ("Q to=x: ", "<|channel|>final<|message|>d", ("", "d")),
    ],
)
def test_harmony(prompt, generated, expected, size):
    assert parsed(Style(HARMONY, [R1]), generated, prompt, size) == expected


def test_where_we_are():
    parser = Style(HARMONY, []).parser(OPEN)
    inside = []
    for token in ("<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|channel|>", "<|message|>"):
        parser.mark(token)
        inside.append(parser.inside)
        parser.text("final" if len(inside) > 4 else "analysis")
    assert inside == [False, True, False, False, False, False]
