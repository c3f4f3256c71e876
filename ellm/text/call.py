"""A call of a tool as it is read."""

from __future__ import annotations

from collections.abc import Callable

from ellm.text.piece import Piece
from ellm.text.strict_json import is_object

HELD = 256  # characters of arguments until which nothing of a call is shown: most are read to their end before


class Malformed(Exception):
    """What began as a call is none."""


class Cut(Malformed):
    """The answer ended within a call."""


class Call:
    """A call being read: its name, then its arguments as they come, once they are too long to be held back.

    Attributes:
        name: None as long as it is not known.
        id: what the model calls it, if it does.
        shown: whether some of it was.
    """

    def __init__(self, show: Callable[[Piece], None], index: int):
        self.name: str | None = None
        self.id: str | None = None
        self.shown = False
        self._show, self._index = show, index
        self._arguments: list[str] = []
        self._held = self._length = 0

    def add(self, text: str) -> None:
        """More of the arguments."""
        self._arguments.append(text)
        self._length += len(text)
        if self.shown or self._length > HELD:
            self._release()

    def end(self) -> None:
        """It is whole. Raises Malformed if it has no name, or arguments that are no JSON object."""
        if self.name is None or not is_object("".join(self._arguments)):
            raise Malformed
        self._release()

    def _release(self) -> None:
        if self.name is None:
            return
        if not self.shown:
            self.shown = True
            self._show(Piece("", "tool", self._index, self.name, self.id))
        text = "".join(self._arguments[self._held :])
        self._held = len(self._arguments)
        if text:
            self._show(Piece(text, "tool", self._index))
