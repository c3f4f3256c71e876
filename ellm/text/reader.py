"""Reads an answer: token ids in, pieces of text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from ellm.text.call_id import CallIds
from ellm.text.parser import Parser
from ellm.text.piece import Piece, Unit
from ellm.text.stops import StopFilter


class Stream(Protocol):
    """Decodes ids one by one."""

    def push(self, token_id: int, /) -> str:
        """The text that this id completes."""

    def finish(self) -> str:
        """The text still held back."""


class Reader:
    """Turns the tokens of an answer into the pieces before its first stop string; special tokens are not shown."""

    def __init__(
        self,
        stream: Stream,
        parser: Parser,
        tokens: Mapping[int, str],
        stops: Sequence[str],
        call_ids: CallIds | None = None,
        include_stop: bool = False,
    ):
        """Read an answer from its first token on.

        Args:
            stream: decodes ids to text.
            parser: tells reasoning from the answer.
            tokens: ids that are not text and what stop strings see of them: special tokens and the parser's marks.
            stops: strings that end the answer and are not part of it.
            call_ids: names calls that the model did not.
            include_stop: the stop string that comes is part of the answer.
        """
        self._stream, self._parser, self._tokens = stream, parser, tokens
        self._stop = StopFilter(list(stops), include_stop)
        self._call_ids = call_ids

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._stop.matched

    @property
    def stop(self) -> str | None:
        """The stop string that has come."""
        return self._stop.stop

    @property
    def answering(self) -> bool:
        """Whether what comes next is the answer, as far as is known."""
        return self._parser.answering

    @property
    def opening(self) -> int | None:
        """The token that may come next and begin reasoning, though what comes is the answer else."""
        return next((number for number, token in self._tokens.items() if token == self._parser.opening), None)

    @property
    def marks(self) -> frozenset[int]:
        """The tokens that may change what comes next."""
        return frozenset(number for number, token in self._tokens.items() if token in self._parser.marks)

    @property
    def in_reasoning(self) -> bool:
        """Whether what comes next is reasoning, as far as is known."""
        return self._parser.inside

    def push(self, token_id: int, looking: bool = True) -> list[Piece]:
        """The pieces that this token completes. With `looking` false no stop string ends with it."""
        token = self._tokens.get(token_id)
        if token is None:
            return self._show(Unit(self._stream.push(token_id)), looking=looking)
        if token not in self._parser.marks:  # the bytes of a character may lie on both sides of it
            return self._show(Unit(token, is_token=True), looking=looking)
        return self._show(Unit(self._stream.finish()), Unit(token, is_token=True), looking=looking)

    def finish(self) -> list[Piece]:
        """What was held back when the answer has ended."""
        pieces = self._show(Unit(self._stream.finish()))
        if not self.stopped:
            pieces += self._parse(self._stop.finish())
        return pieces + self._named(self._parser.finish())

    def _show(self, *units: Unit, looking: bool = True) -> list[Piece]:
        pieces = []
        for unit in units:
            if unit.text and not self.stopped:
                pieces += self._parse(self._stop.push(unit, looking))
        return pieces

    def _parse(self, units: Sequence[Unit]) -> list[Piece]:
        pieces = []
        for text, is_token in units:
            if not is_token:
                pieces += self._parser.text(text)
            elif text in self._parser.marks:
                pieces += self._parser.mark(text)
        return self._named(pieces)

    def _named(self, pieces: list[Piece]) -> list[Piece]:
        ids = self._call_ids
        if ids is None:
            return pieces
        return [piece if piece.name is None or piece.id else replace(piece, id=ids(piece.index)) for piece in pieces]
