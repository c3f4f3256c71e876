"""Calls of tools in answers: what each family writes, however it is cut, and what is left of what is none."""

import sys

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st
from written_calls import ARGUMENTS, TOOLS, TWO, called, read, tokens_of, whole

from ellm.system.errors import InputError
from ellm.text.call import HELD
from ellm.text.families import FAMILIES, Chat, Style


@pytest.mark.parametrize("are_tokens", [True, False])
@pytest.mark.parametrize("name", TWO)
def test_two_calls_of_each_family(name, are_tokens):
    pieces = read(name, TWO[name], are_tokens=are_tokens)
    assert called(pieces) == [("weather", ARGUMENTS), ("time", {})]
    assert whole(pieces)["answer"] == whole(pieces)["rest"] == ""


@pytest.mark.parametrize("name", TWO)
def test_without_tools_calls_are_text(name):
    pieces = read(name, TWO[name], tools=[])
    assert whole(pieces)["calls"] == []
    assert "Zürich" in whole(pieces)["answer"] + whole(pieces)["reasoning"]


@pytest.mark.parametrize("name", [name for name in TWO if name not in ("llama3_json", "pythonic")])
def test_text_around_calls_and_reasoning_before(name):
    before = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>Look:<|end|>"
    text = (before + "<|start|>assistant" if name == "openai" else "<think>Hm.</think>Look:") + TWO[name]
    found = whole(read(name, text))
    assert (found["reasoning"], found["answer"], len(found["calls"])) == ("Hm.", "Look:", 2)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(TWO)),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    are_tokens=st.booleans(),
    end=st.integers(0, 400),
)
def test_answers_may_be_cut_anywhere(name, sizes, are_tokens, end):
    text = TWO[name][:end]
    assert whole(read(name, text, sizes, are_tokens)) == whole(read(name, text, (10_000,), are_tokens))


PARTS = [*sorted({mark for name in TWO for mark in tokens_of(name)} - {""}), "<function=", "<parameter=", "</function>"]
PARTS += [
    "</parameter>",
    "<invoke",
    "</invoke>",
    "<think>",
    "</think>",
    '{"name": "time", "arguments": {',
    '"a": "',
    '"',
]
PARTS += [
    "{",
    "}",
    "[",
    "]",
    "time(",
    ")",
    "weather",
    " ",
    "\n",
    "\n\n",
    "a=1",
    ",",
    ">",
    "\\",
    "functions.time:0",
    "é",
]
PARTS += [
    " to=functions.time",
    "commentary",
    "analysis",
    "final",
    ' name="time"',
    "```json\n",
    "```",
    "call:time",
    "<tool",
    "x",
]


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted({*TWO, "gemma4", "deepseek_v32", "deepseek_v4"})),
    parts=st.lists(st.sampled_from(PARTS), max_size=30),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    are_tokens=st.booleans(),
)
def test_garbage_is_kept_however_it_is_cut(name, parts, sizes, are_tokens):
    text = "".join(parts)
    note(f"{name} {text!r} {sizes} {are_tokens}")
    pieces = read(name, text, sizes, are_tokens)
    found = whole(pieces)
    assert found == whole(read(name, text, (10_000,), are_tokens))
    if name != "openai" and not any(piece.kind == "tool" for piece in pieces):  # headers of messages are not shown
        said = "".join(piece.text for piece in pieces)
        assert bare(said, name) == bare(text, name)


def bare(text, name):
    """A text without white space and without marks, which are not shown where they are in their place."""
    for mark in sorted([*tokens_of(name), "<think>", "</think>"], key=len, reverse=True):
        text = text.replace(mark, "")
    return "".join(text.split())


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(sorted(TWO)), text=st.text(max_size=60))
def test_any_text_behind_a_call_is_the_answer(name, text):
    pieces = read(name, TWO[name] + text, (3,))
    assert called(pieces)[:1] == [("weather", ARGUMENTS)]


def test_long_arguments_come_as_they_are_written():
    long = "word " * HELD
    for name, text in {
        "hermes": f'<tool_call>\n{{"name": "time", "arguments": {{"city": "{long}"}}}}\n</tool_call>',
        "qwen3_coder": f"<tool_call>\n<function=time>\n<parameter=city>\n{long}\n</parameter>\n</function>"
        "\n</tool_call>",
    }.items():
        pieces = read(name, text, (4,))
        assert [(piece.index, piece.name) for piece in pieces[:2]] == [(0, "time"), (0, None)]
        assert len(pieces) > HELD and all(len(piece.text) < 3 * HELD for piece in pieces)
        assert called(pieces) == [("time", {"city": long})]
        cut = read(name, text[: len(text) // 2], (4,))
        assert whole(cut)["calls"] == [] and cut[0].name == "time"


def test_a_short_call_that_is_cut_is_no_call_and_no_answer():
    found = whole(read("hermes", 'Look:\n<tool_call>\n{"name": "time", "argum'))
    assert (found["answer"], found["calls"]) == ("Look:", [])
    assert '"argum' in found["rest"]


def test_what_is_no_call_is_text():
    for name, text in {
        "hermes": "Say <tool_call> and </tool_call>.",
        "qwen3_coder": "Say <tool_call> or <function=x> then.",
        "llama3_json": '{"capital": "Bern"}',
        "pythonic": "[1] is a reference (see below)",
        "mistral": "[TOOL_CALLS] not json at all",
        "glm45": "The mark <tool_call> begins one.",
    }.items():
        found = whole(read(name, text))
        assert (found["answer"], found["calls"], found["rest"]) == (text, [], "")


def test_bare_calls_are_of_tools_that_were_offered():
    text = '{"name": "Bern", "parameters": {}}'
    assert whole(read("llama3_json", text))["answer"] == text
    assert whole(read("pythonic", "[bern(a=1)]"))["answer"] == "[bern(a=1)]"


def test_arguments_keep_their_form():
    arguments = '{"x": 1e20, "y": 123456789012345678901, "z": "\\u00e9\n"}'
    assert whole(read("hermes", f'<tool_call>{{"name": "time", "arguments": {arguments}}}</tool_call>'))["calls"] == [
        ("time", '{"x": 1e20, "y": 123456789012345678901, "z": "\\u00e9\\n"}')
    ]


def test_ids_are_the_models_own_or_none():
    heads = [piece for piece in read("kimi_k2", TWO["kimi_k2"]) if piece.name]
    assert [head.id for head in heads] == ["functions.weather:0", "functions.time:1"]
    assert [piece.id for piece in read("mistral", TWO["mistral"]) if piece.name] == [None, None]


@pytest.mark.parametrize("unit", ["<tool_call>", '<tool_call>{"name": "x", "arguments": {"a": "', "{[", '"\\', "a "])
@pytest.mark.parametrize("name", ["hermes", "qwen3_coder", "glm45", "llama3_json", "pythonic", "mistral"])
def test_work_is_linear(name, unit):
    read(name, unit, are_tokens=False)
    assert calls_of(name, unit * 200) < 5 * calls_of(name, unit * 50) + 2000


def calls_of(name, text):
    """How many Python functions an answer takes."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        read(name, text, (3,), are_tokens=False)
    finally:
        sys.setprofile(None)
    return calls


def test_the_names_are_checked():
    assert [family.name for family in FAMILIES] == list(dict.fromkeys(family.name for family in FAMILIES))
    with pytest.raises(InputError, match=r"^tool_parser must be one of openai, .*, not 'nope'$"):
        Style([], []).parser("", Chat(TOOLS, "nope"))
