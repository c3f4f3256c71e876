"""Recorded answers of models (canitoolcall) as tokens, without the models' tokenizers.

What is known of a tokenizer is which ids are marks. The text between two marks is cut into as many parts as it has ids.
"""

from __future__ import annotations

from collections.abc import Sequence

from canitoolcall.fixtures import Fixture
from canitoolcall.pytest_plugin import family_for
from canitoolcall.results import ParseResult, StreamAccumulator

from ellm.text.families import Chat, Style
from ellm.text.reader import Reader

QWEN = {151657: "<tool_call>", 151658: "</tool_call>", 151667: "<think>", 151668: "</think>"}
QWEN35 = {248058: "<tool_call>", 248059: "</tool_call>", 248068: "<think>", 248069: "</think>"}
GLM_MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
GLM_MARKS += ["<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"]
KIMI = ["<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>"]
KIMI += ["<|tool_call_argument_begin|>", "<|tool_call_end|>"]
DEEPSEEK = {128806: "<｜tool▁calls▁begin｜>", 128807: "<｜tool▁calls▁end｜>", 128808: "<｜tool▁call▁begin｜>"}  # noqa: RUF001
DEEPSEEK |= {128809: "<｜tool▁call▁end｜>", 128814: "<｜tool▁sep｜>", 128798: "<think>", 128799: "</think>"}  # noqa: RUF001
HARMONY = {200002: "<|return|>", 200003: "<|constrain|>", 200005: "<|channel|>", 200006: "<|start|>"}
HARMONY |= {200007: "<|end|>", 200008: "<|message|>", 200012: "<|call|>"}
MISTRAL = {9: "[TOOL_CALLS]", 32: "[ARGS]", 33: "[CALL_ID]"}
GEMMA = {48: "<|tool_call>", 49: "<tool_call|>", 52: '<|"|>', 100: "<|channel>", 101: "<channel|>"}
TOKENS = {  # the first one whose key is in the tokenizer's name
    "Qwen3.": QWEN35,
    "Qwen3-": QWEN,
    "gpt-oss": HARMONY,
    "DeepSeek-V3.2": {128793: "｜DSML｜", 128798: "<think>", 128799: "</think>"},  # noqa: RUF001
    "DeepSeek-V4": {128825: "｜DSML｜", 128821: "<think>", 128822: "</think>"},  # noqa: RUF001
    "DeepSeek-V3": DEEPSEEK,
    "Kimi-K3": {163587: "<|open|>", 163588: "<|close|>", 163589: "<|sep|>"},
    "Kimi-K2-Instruct": dict(enumerate(KIMI, 163595)),
    "Kimi-K2": {**dict(enumerate(KIMI, 163595)), 163606: "<think>", 163607: "</think>"},
    "GLM-4": dict(enumerate(GLM_MARKS, 151350)),
    "GLM-5": dict(enumerate(GLM_MARKS, 154841)),
    "Llama-3": {128006: "<|start_header_id|>", 128007: "<|end_header_id|>", 128010: "<|python_tag|>"},
    "Llama-4": {200016: "<|python_start|>", 200017: "<|python_end|>"},
    "Mistral-7B": {5: "[TOOL_CALLS]"},
    "Magistral-Small-2506": MISTRAL,
    "Magistral": {**MISTRAL, 34: "[THINK]", 35: "[/THINK]"},
    "Reasoning": {**MISTRAL, 34: "[THINK]", 35: "[/THINK]"},
    "istral": MISTRAL,
    "gemma": GEMMA,
}
SPECIAL = ("<|", "<｜", "[", "｜")  # noqa: RUF001 - what tokens that are not shown begin with
TEMPLATES = {  # what their templates write that are no tokens
    "Qwen3-0.6B": "<tool_call>",
    "Qwen3-4B": "<tool_call>",
    "Qwen": "<tool_call>\n<function=name>\n<parameter=key>",
    "Magistral-Small-2506": "<think></think>",
    "DeepSeek-V4.1": "<｜DSML｜ calls>",  # noqa: RUF001
    "DeepSeek-V4": "<｜DSML｜tool_calls>",  # noqa: RUF001
}


def _of(table, model):
    return next((value for key, value in table.items() if key in model), None)


def tokens(fixture: Fixture) -> dict[int, str]:
    """The ids that are marks."""
    return _of(TOKENS, fixture.tokenizer.repo)


def special(fixture: Fixture) -> dict[int, str]:
    """Those of them that are not shown."""
    return {number: token for number, token in tokens(fixture).items() if token.startswith(SPECIAL)}


def texts(fixture: Fixture) -> list[str]:
    """The text of each id."""
    marks, ids = tokens(fixture), fixture.output_token_ids
    found: list[str] = []
    begin = 0
    runs = []  # (ids between two marks, mark)
    for at, number in enumerate(ids):
        if number in marks:
            runs.append((len(ids[begin:at]), marks[number]))
            begin = at + 1
    runs.append((len(ids) - begin, ""))
    cut = _cut(fixture.raw_output, tuple(runs))
    assert cut is not None, fixture.id
    for (count, mark), text in zip(runs, cut, strict=True):
        found += [text[len(text) * i // count : len(text) * (i + 1) // count] for i in range(count)]
        found += [mark] if mark else []
    assert "".join(found) == fixture.raw_output
    return found


def _cut(text: str, runs: tuple) -> list[str] | None:
    """The texts before each mark, so that where there are no ids there is no text, and the other way round."""
    (count, mark), rest = runs[0], runs[1:]
    if not rest:
        return [text] if bool(text) == bool(count) else None
    at = -1
    while (at := text.find(mark, at + 1)) >= 0:
        if bool(at) == bool(count) and (found := _cut(text[at + len(mark) :], rest)) is not None:
            return [text[:at], *found]
    return None


class _Texts:
    """Decodes numbers of texts."""

    def __init__(self, found: list[str]):
        self.found = found

    def push(self, at: int, /) -> str:
        return self.found[at]

    def finish(self) -> str:
        return ""


def style(fixture: Fixture) -> Style:
    """How the fixture's model writes."""
    marks = {*tokens(fixture).values()}
    return Style(marks, [_of(TEMPLATES, fixture.reference_model) or ""], {*special(fixture).values()})


def prompt(fixture: Fixture) -> str:
    """The end of the prompt that the fixture answers."""
    if fixture.generation_prompt is not None:
        return fixture.generation_prompt
    return family_for(fixture).reference_for(fixture.reference_model).default_generation_prompt or ""


def parse(fixture: Fixture, sizes: Sequence[int]) -> ParseResult:
    """What is made of the answer when so many tokens come at once, by its pieces as a client puts them together."""
    parser = style(fixture).parser(prompt(fixture), Chat(fixture.tools))
    marks, hidden = tokens(fixture), special(fixture)
    found: list[str] = []
    known: dict[int, str] = {}
    all_texts, at = texts(fixture), 0
    for size in sizes:
        joined = True
        for number, text in zip(fixture.output_token_ids[at : at + size], all_texts[at : at + size], strict=True):
            if number in marks and (number in hidden or marks[number] in parser.marks):
                known[len(found)] = marks[number]
                found.append("")
                joined = True
            elif joined:
                found.append(text)
                joined = False
            else:
                found[-1] += text
        at += size
    reader, client = Reader(_Texts(found), parser, known, []), StreamAccumulator()
    pieces = [piece for number in range(len(found)) for piece in reader.push(number)] + reader.finish()
    for piece in pieces:
        if piece.kind == "answer":
            client.add_content(piece.text)
        elif piece.kind == "reasoning":
            client.add_reasoning(piece.text)
        elif piece.kind == "tool":
            client.add_tool_call(piece.index, piece.name, piece.text)
    return client.result()
