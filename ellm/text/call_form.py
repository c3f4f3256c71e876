"""What a form of calls is, and what all forms share."""

from __future__ import annotations

from typing import Protocol

from ellm.text.argument_types import Tools
from ellm.text.call import Call, Cut, Malformed
from ellm.text.call_grammar import CallGrammar
from ellm.text.input import Input, Reading

_LONGEST_NAME = 256


class Reader(Protocol):
    """What reads an answer, as far as a form needs it."""

    @property
    def input(self) -> Input:
        """What is still to be read."""

    @property
    def lenient(self) -> bool:
        """Whether the answer ended within a call whose end had been taken for a part of a string."""

    def call(self, name: str | None = None) -> Call:
        """A new call."""

    def done(self, call: Call) -> None:
        """A call is whole. Raises Malformed if it is none."""


class Form(Protocol):
    """A way to write calls."""

    @property
    def begins(self) -> tuple[str, ...]:
        """Marks with which calls begin."""

    @property
    def sections(self) -> tuple[tuple[str, str], ...]:
        """Marks around all of an answer's calls, if there are such; calls begin within them alone then."""

    @property
    def bare(self) -> str:
        """The character that begins a call if an answer begins with it; "" if calls have marks."""

    @property
    def marks(self) -> tuple[str, ...]:
        """All marks, which are tokens where the tokenizer has them."""

    @property
    def forgiving(self) -> bool:
        """Whether to read again, `lenient`, what the end cut."""

    def write(self, grammar: CallGrammar) -> str:
        """The rule of one call of any of the grammar's tools."""

    def read(self, reader: Reader, begin: str, tools: Tools) -> Reading[None]:
        """Read the calls behind one of `begins`, or bare ones behind "". Raises Malformed and Cut."""


class Name:
    """The name of a call as it comes. Raises Malformed for what cannot be one."""

    def __init__(self) -> None:
        self.text = ""

    def add(self, text: str) -> None:
        """More of it, and white space around it."""
        self.text += text
        if len(self.text) > _LONGEST_NAME or any(map(str.isspace, self.text.strip())):
            raise Malformed

    @property
    def whole(self) -> str:
        """The name. Raises Malformed if there is none."""
        if not self.text.strip():
            raise Malformed
        return self.text.strip()


def expect(source: Input, *marks: str) -> Reading[str]:
    """White space, then one of some marks, which is returned. Raises Malformed, or Cut at the end."""
    yield from source.space()
    found = yield from source.accept(*marks)
    if not found:
        raise Cut if source.unfinished(*marks) else Malformed
    return found


def nowhere(text: str) -> None:
    """Take what is of no use."""
