"""Tells what is generated apart: the answer, the reasoning before it, and calls of tools."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from ellm.text.call import Call, Cut, Malformed
from ellm.text.input import Input, Reading
from ellm.text.piece import Kind, Piece


class Parser(Protocol):
    """Tells the parts of what is generated apart."""

    @property
    def marks(self) -> Collection[str]:
        """The tokens that `mark` wants."""

    @property
    def inside(self) -> bool:
        """Whether we are within reasoning."""

    @property
    def answering(self) -> bool:
        """Whether what comes next is the answer, unless it is `opening`."""

    @property
    def opening(self) -> str | None:
        """The mark that may come next and begin reasoning, if what comes is the answer else."""

    def mark(self, token: str) -> list[Piece]:
        """The pieces that one of `marks` completes."""

    def text(self, text: str) -> list[Piece]:
        """The pieces that some text completes."""

    def finish(self) -> list[Piece]:
        """What was held back when the answer has ended."""


class Everything:
    """Everything is the answer, marks of reasoning included."""

    inside, answering, opening = False, True, None

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


class Grammar:
    """A parser that reads an answer as a whole, in `_parse`, which waits whenever it has read what has come.

    Attributes:
        input: what is still to be read.
        inside: whether we are within reasoning, as far as is known.
        answering: whether what comes next is the answer, unless it is `opening`.
        opening: the token that may come next and begin reasoning, if what comes is the answer else.
        lenient: see `call_form.Reader`.
    """

    def __init__(self, tokens: Collection[str], others: Collection[str] = ()):
        """Read an answer from its first token on.

        Args:
            tokens: those that are marks of the family.
            others: more tokens that may be a part of something: they are text there, and else left out.
        """
        self.marks: Collection[str] = frozenset(tokens) | frozenset(others)
        self.inside = self.lenient = self.answering = False
        self.opening: str | None = None
        self.input = Input(tokens)
        self._pieces: list[Piece] = []
        self._calls = 0
        self._call: Call | None = None  # the one being read
        self._opener = ""
        self._run = self._parse()

    def mark(self, token: str) -> list[Piece]:
        """The pieces that one of `marks` completes."""
        self.input.push(token, is_token=True)
        return self._more()

    def text(self, text: str) -> list[Piece]:
        """The pieces that some text completes."""
        self.input.push(text)
        return self._more()

    def finish(self) -> list[Piece]:
        """What was held back when the answer has ended."""
        self.input.ended = True
        return self._more()

    def call(self, name: str | None = None) -> Call:
        """A new call, whose pieces are shown as they come."""
        self._call = Call(lambda piece: self._pieces.append(piece), self._calls)
        self._call.name = name
        return self._call

    def done(self, call: Call) -> None:
        """A call is whole. Raises Malformed if it is none."""
        call.end()
        self._calls += 1
        self._call, self._opener = None, ""
        self.input.record()

    def _parse(self) -> Reading[None]:
        raise NotImplementedError

    def _more(self) -> list[Piece]:
        next(self._run, None)
        pieces, self._pieces = self._pieces, []
        return pieces

    def _say(self, text: str, kind: Kind) -> None:
        if text:
            self._pieces.append(Piece(text, kind))

    def _attempt(
        self, read: Callable[[], Reading[None]], opener: str, kind: Kind, forgiving: bool = False
    ) -> Reading[bool]:
        """Read calls; whether there was one.

        What is none becomes text of a kind, with the opener. What the end of the answer cut behind an opener, and what
        was shown in part already, becomes "rest".
        """
        before = self._calls
        self._call, self._opener = None, opener
        self.input.record()
        try:
            yield from read()
        except Malformed as error:
            cut, broken = isinstance(error, Cut), self._call is not None and self._call.shown
            if cut and forgiving and not broken and not self.lenient and self._opener:
                self.lenient = True
                self.input.rewind()
                return (yield from self._attempt(read, opener, kind))
            self._calls += broken
            text = self._opener + self.input.recorded()
            self._say(text, "rest" if broken or (cut and self._opener) else kind)
        self.input.forget()
        return self._calls > before
