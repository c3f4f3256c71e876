"""Answers in which reasoning stands between two marks, before the answer proper, and calls have marks of their own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ellm.text.argument_types import Tools
from ellm.text.call_form import Form
from ellm.text.input import Reading
from ellm.text.parser import Grammar
from ellm.text.piece import Kind, Piece


@dataclass(frozen=True)
class Block:
    """The marks around reasoning, and what may follow the first one without being said."""

    begin: str
    end: str
    title: str = ""


@dataclass(frozen=True)
class Calls:
    """How calls are found in an answer.

    Attributes:
        form: how they are written.
        tools: that were offered.
        special: tokens that are not shown, but are text within a call.
        plain: tokens that are always text, as marks consist of more than them.
        trims: whether white space around calls is none of the answer.
        end_reasoning: whether a call ends reasoning that was not closed.
    """

    form: Form
    tools: Tools
    special: Collection[str] = ()
    plain: Collection[str] = ()
    trims: bool = False
    end_reasoning: bool = False


class Blocks(Grammar):
    """Reasoning, then the answer with its calls: marks elsewhere are words about them.

    White space around reasoning belongs to neither.
    """

    def __init__(self, block: Block | None, calls: Calls | None, tokens: Collection[str], prompt: str):
        """Take an answer apart.

        Args:
            block: around reasoning; None if the model does not reason.
            calls: None if there are none to be looked for.
            tokens: which marks are tokens; others are looked for in the text.
            prompt: the end of the prompt's text: a template may open reasoning itself, or say that there is none.
        """
        marks = (*([block.begin, block.end] if block else ()), *(calls.form.marks if calls else ()))
        super().__init__({*marks} & {*tokens}, {*calls.special, *calls.plain} if calls else ())
        prompt = prompt.rstrip()
        self._block, self._call_style = block, calls
        self._plain = frozenset(calls.plain if calls else ())
        self._trims = calls is not None and calls.trims
        self.inside = block is not None and prompt.endswith(block.begin)
        self.answering = not self.inside
        self._closed = block is not None and prompt.endswith(block.end)
        self._open()
        # White space that comes next is between the two, or around calls.
        self._trimming = block is not None and prompt.endswith((block.begin, block.end))
        self._space = ""  # read, and not said
        begins, sections = (calls.form.begins, calls.form.sections) if calls else ((), ())
        self._section_begins, self._section_ends = tuple(one for one, _ in sections), tuple(one for _, one in sections)
        self._inner = begins + self._section_ends
        self._outer = self._section_begins + tuple(one for one in begins if not sections or one in tokens)

    def mark(self, token: str) -> list[Piece]:
        """See Parser."""
        return self.text(token) if token in self._plain else super().mark(token)

    def _parse(self) -> Reading[None]:
        if self._block is None or (yield from self._reason(self._block)):
            yield from self._answer()

    def _reason(self, block: Block) -> Reading[bool]:
        """Reasoning, if there is any. False if the answer ended within it."""
        begins = self._outer if self._call_style and self._call_style.end_reasoning else ()
        while True:
            if not self.inside:
                self._open()
                self._space = yield from self.input.space()
                found = yield from self.input.accept(block.begin)
                self.opening, self._closed = None, True
                if not found:
                    return True
                self.inside, self.answering, self._trimming = True, False, True
            self._space = ""
            if block.title:
                yield from self.input.accept(block.title)
            while found := (yield from self.input.until((block.end, *begins), self._reasoning, hidden=True)):
                if found == block.end or (yield from self._read_calls(found, "reasoning")):
                    break
            if not found:
                return False
            self.inside, self.answering, self._trimming, self._space = False, True, True, ""
            if found != block.end:
                return True

    def _open(self) -> None:
        """Reasoning may begin."""
        begin = self._block.begin if self._block else None
        self.opening = begin if begin in self.marks and not (self.inside or self._closed) else None

    def _answer(self) -> Reading[None]:
        yield from self._bare_calls()
        in_section = False
        while True:
            if in_section:
                self._trimming = True
                found = yield from self.input.until(self._inner, self._noise, hidden=True)
                self._space = ""
            else:
                found = yield from self.input.until(self._outer, self._answering, hidden=True)
            if not found:
                break
            if found in self._section_begins:
                in_section, self._space = True, ""
            elif found in self._section_ends:
                in_section, self._trimming = False, self._trims
            else:
                yield from self._read_calls(found, "answer")
        self._said("", "answer", hold=False)

    def _bare_calls(self) -> Reading[None]:
        """Calls without marks with which the answer may begin."""
        if self._call_style is None or not self._call_style.form.bare:
            return
        self._space += yield from self.input.space()
        if (yield from self.input.peek())[:1] == self._call_style.form.bare:
            self._said("", "answer", hold=False)
            yield from self._read_calls("", "answer")

    def _read_calls(self, begin: str, kind: Kind) -> Reading[bool]:
        """What is behind the beginning of a call; whether it was one."""
        assert self._call_style is not None
        form, tools = self._call_style.form, self._call_style.tools
        space, self._space = self._space, ""
        found = yield from self._attempt(
            lambda: form.read(self, begin, tools), begin and space + begin, kind, form.forgiving
        )
        self._trimming = found and self._trims
        return found

    def _reasoning(self, text: str) -> None:
        self._said(text, "reasoning", hold=True)

    def _answering(self, text: str) -> None:
        self._said(text, "answer", hold=self._trims)

    def _noise(self, text: str) -> None:
        """What is between the calls of a section."""
        self._said(text, "rest", hold=True)

    def _said(self, text: str, kind: Kind, hold: bool) -> None:
        """Text, perhaps with its last white space held back."""
        text, self._space = self._space + text, ""
        if self._trimming:
            text = text.lstrip()
        self._trimming = self._trimming and not text
        if hold:
            shown = text.rstrip()
            text, self._space = shown, text[len(shown) :]
        self._say(text, kind)
