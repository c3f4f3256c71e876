"""Reasoning in an answer: how the families mark it, and what tells it from the answer proper.

A family's marks are tokens of its tokenizer, and only these tokens count then: text that spells one is text. Where a
tokenizer has no such tokens but the chat template writes them, they are text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Protocol

from ellm.text.piece import Kind, Piece
from ellm.text.stops import StopMatcher

BLOCKS = (
    ("<think>", "</think>"),  # Qwen3, DeepSeek R1, GLM, SmolLM3, Nemotron
    ("[THINK]", "[/THINK]"),  # Mistral
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<longcat_think>", "</longcat_think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<thought>", "</thought>"),  # EXAONE
)
_CHANNEL, _MESSAGE, _START, _END = HARMONY = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>")  # gpt-oss


class Parser(Protocol):
    """Tells the reasoning in what is generated from the answer."""

    @property
    def marks(self) -> Collection[str]:
        """The tokens that `mark` wants."""

    @property
    def inside(self) -> bool:
        """Whether we are within reasoning."""

    def mark(self, token: str) -> list[Piece]:
        """The pieces that one of `marks` completes."""

    def text(self, text: str) -> list[Piece]:
        """The pieces that some text completes."""

    def finish(self) -> list[Piece]:
        """What was held back when the answer has ended."""


class Everything:
    """Everything is the answer, marks of reasoning included."""

    inside = False

    def __init__(self, marks: Collection[str] = ()):
        self.marks = marks

    def mark(self, token: str) -> list[Piece]:
        """The mark, as text."""
        return [Piece(token, "answer")]

    def text(self, text: str) -> list[Piece]:
        """The text."""
        return [Piece(text, "answer")]

    def finish(self) -> list[Piece]:
        """Nothing."""
        return []


class Blocks:
    """Reasoning between two marks, before the answer: marks in the midst of an answer are words about them.

    White space around reasoning belongs to neither.
    """

    def __init__(self, begin: str, end: str, are_tokens: bool, prompt: str):
        """Take an answer apart.

        Args:
            begin: the mark before reasoning.
            end: the mark behind it.
            are_tokens: whether the marks are tokens; otherwise they are looked for in the text.
            prompt: the end of the prompt's text: a template may open reasoning itself, or say that there is none.
        """
        prompt = prompt.rstrip()
        self.marks = (begin, end) if are_tokens else ()
        self.inside = prompt.endswith(begin)
        self._begin, self._end, self._are_tokens = begin, end, are_tokens
        self._answering = False
        self._trimming = prompt.endswith((begin, end))  # white space that comes next is between the two
        self._held = ""
        self._end_matcher = StopMatcher([end])

    def mark(self, token: str) -> list[Piece]:
        """A mark where one is due changes sides; elsewhere it is text."""
        if self._answering or token != (self._end if self.inside else self._begin):
            return self._reasoning(token) if self.inside else self._answer(token)
        self._held, self._trimming, self.inside = "", True, not self.inside
        return []

    def text(self, text: str) -> list[Piece]:
        """Text on the side where we are."""
        if self._answering:
            return [Piece(text, "answer")]
        if not self.inside:
            return self._opening(text)
        return self._reasoning(text) if self._are_tokens else self._reasoning_to_end(text)

    def finish(self) -> list[Piece]:
        """What looked like the start of a mark, and white space that nothing came after."""
        if self.inside:
            return self._reasoning(self._end_matcher.finish())
        return self._answer("") if self._held else []

    def _opening(self, text: str) -> list[Piece]:
        """Before the answer: what is still white space, or may become a mark, is held back."""
        self._held += text
        start = self._held.lstrip()
        if not start or (not self._are_tokens and len(start) < len(self._begin) and self._begin.startswith(start)):
            return []
        if self._are_tokens or not start.startswith(self._begin):
            return self._answer("")
        self._end_matcher = StopMatcher([self._end])
        rest = start[len(self._begin) :]
        return self.mark(self._begin) + (self.text(rest) if rest else [])

    def _reasoning_to_end(self, text: str) -> list[Piece]:
        pieces = self._reasoning(self._end_matcher.push(text))
        if self._end_matcher.matched:
            rest = self._end_matcher.rest
            pieces += self.mark(self._end) + (self.text(rest) if rest else [])
        return pieces

    def _reasoning(self, text: str) -> list[Piece]:
        """Reasoning, with its last white space held back."""
        text = self._held + text
        said = text.rstrip()
        self._held = text[len(said) :]
        return self._trimmed(said, "reasoning")

    def _answer(self, text: str) -> list[Piece]:
        text, self._held, self._answering = self._held + text, "", True
        return self._trimmed(text, "answer")

    def _trimmed(self, text: str, kind: Kind) -> list[Piece]:
        text = text.lstrip() if self._trimming else text
        self._trimming = self._trimming and not text
        return [Piece(text, kind)] if text else []


class Harmony:
    """Messages of gpt-oss: `<|channel|>NAME<|message|>...<|end|><|start|>assistant<|channel|>...`.

    The channel `analysis` is reasoning, and so is what is said to a tool; `final` and the preambles in `commentary` are
    the answer (OpenAI, Harmony response format).
    """

    marks = HARMONY

    def __init__(self, prompt: str):
        """Go on where the text of a prompt ends: behind `<|start|>assistant`, or further into a message."""
        self.inside = self._in_message = False
        self._header = self._held = ""
        self._said: set[Kind] = set()
        _, start, message = prompt.rpartition(_START)
        for part in re.split("(" + "|".join(map(re.escape, HARMONY)) + ")", start + message if start else ""):
            _ = self.mark(part) if part in HARMONY else self.text(part)
        self._held, self._marked = "", False
        self._said.clear()

    def mark(self, token: str) -> list[Piece]:
        """The end of a header or of a message, or where a header names its channel."""
        self._held, self._marked = "", True
        if token == _MESSAGE:
            self._in_message, self.inside = True, self._is_reasoning()
            return [Piece("\n\n", self._kind)] if self._kind in self._said else []
        self._header = self._header + token if token == _CHANNEL and not self._in_message else token
        self._in_message = self.inside = False
        return []

    def text(self, text: str) -> list[Piece]:
        """A part of a header or of a message."""
        if self._in_message:
            self._said.add(self._kind)
            return [Piece(text, self._kind)]
        self._header += text
        self._held += text
        return []

    def finish(self) -> list[Piece]:
        """Text without any mark is the answer of a model that knows no channels."""
        return [Piece(self._held, "answer")] if self._held and not self._marked else []

    @property
    def _kind(self) -> Kind:
        return "reasoning" if self.inside else "answer"

    def _is_reasoning(self) -> bool:
        channel = self._header.partition(_CHANNEL)[2].split()
        return channel[:1] == ["analysis"] or " to=" in self._header


class Style:
    """How a model marks reasoning, if it does.

    Attributes:
        marks: the tokens that are marks.
    """

    def __init__(self, tokens: Collection[str], templates: Iterable[str]):
        """Choose by the tokens that a tokenizer matches whole, else by the chat templates."""
        self._harmony = all(token in tokens for token in HARMONY)
        self._block = next((pair for pair in BLOCKS if all(token in tokens for token in pair)), None)
        self.marks: Collection[str] = HARMONY if self._harmony else self._block or ()
        if not self.marks:
            text = "\n".join(templates)
            self._block = next((pair for pair in BLOCKS if pair[1] in text), None)

    def parser(self, prompt: str) -> Parser:
        """What takes an answer apart, given the end of the prompt's text."""
        if self._harmony:
            return Harmony(prompt)
        return Everything() if self._block is None else Blocks(*self._block, bool(self.marks), prompt)
