"""What the parser of an answer still has to read: text and tokens, as they come.

What waits for more is a generator that yields whenever it has read all there is, so that a grammar is written as if the
whole answer were there, and gives the same however the answer is cut. Each character is looked at once.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection, Generator
from functools import lru_cache
from typing import NamedTuple, TypeVar

Value = TypeVar("Value")
Reading = Generator[None, None, Value]
Sink = Callable[[str], None]


class Marks(NamedTuple):
    """Texts that are looked for: as tokens, or spelled in text where the tokenizer has no such token."""

    tokens: frozenset[str]
    spelled: re.Pattern[str] | None
    begun: frozenset[str]  # what may become one that is spelled
    longest: int


@lru_cache(maxsize=256)
def _marks(marks: tuple[str, ...], tokens: frozenset[str]) -> Marks:
    spelled = sorted((mark for mark in marks if mark not in tokens), key=len, reverse=True)
    begun = frozenset(mark[:end] for mark in spelled for end in range(1, len(mark)))
    pattern = re.compile("|".join(map(re.escape, spelled))) if spelled else None
    return Marks(tokens.intersection(marks), pattern, begun, max(map(len, begun), default=0))


class Input:
    """Text and tokens that have come and were not read.

    Attributes:
        ended: whether nothing more comes.
    """

    def __init__(self, tokens: Collection[str]):
        """Read an answer in which `tokens` are marks only as tokens: text that spells one is text."""
        self.ended = False
        self._tokens = frozenset(tokens)
        self._units: deque[tuple[str, bool]] = deque()
        self._read: list[tuple[str, bool]] | None = None

    def push(self, text: str, is_token: bool = False) -> None:
        """Add what has come."""
        if text:
            self._units.append((text, is_token))

    def record(self) -> None:
        """Keep what is read from here on for `recorded`."""
        self._read = []

    def recorded(self) -> str:
        """What was read since `record`."""
        return "".join(text for text, _ in self._read or ())

    def forget(self) -> None:
        """Keep nothing more."""
        self._read = None

    def rewind(self) -> None:
        """Put back what was read since `record`."""
        self._units.extendleft(reversed(self._read or ()))
        self._read = None

    def wait(self) -> Reading[bool]:
        """Whether anything is there to be read; False at the end."""
        while not self._units:
            if self.ended:
                return False
            yield
        return True

    def until(self, marks: tuple[str, ...], sink: Sink, hidden: bool = False, careful: bool = False) -> Reading[str]:
        """Read up to and with the first of `marks`, which is returned, or "" at the end; what is before goes to `sink`.

        With `hidden`, tokens that are no marks of the family are left out. A `careful` sink may raise: it is given one
        character after the other, so that what is behind the wrong one was not read.
        """
        sought = _marks(marks, self._tokens)
        held = ""
        while (yield from self.wait()):
            text, is_token = self._units.popleft()
            if is_token:
                self._take(text, True)
                if held:
                    sink(held)
                    held = ""
                if text in sought.tokens:
                    return text
                if not hidden or text in self._tokens:
                    sink(text)
                continue
            if careful:
                self._put_back(text[1:])
                text = text[:1]
            known, text = len(held), held + text
            found = sought.spelled.search(text) if sought.spelled else None
            if found:
                self._take(text[known : found.end()])
                self._put_back(text[found.end() :])
                if found.start():
                    sink(text[: found.start()])
                return found[0]
            self._take(text[known:])
            held = _held(text, sought)
            if len(held) < len(text):
                sink(text[: len(text) - len(held)])
        if held:
            sink(held)
        return ""

    def accept(self, *marks: str) -> Reading[str]:
        """The one of `marks` that comes next, which is read then; "" if none does."""
        sought = _marks(marks, self._tokens)
        if not (yield from self.wait()):
            return ""
        text, is_token = self._units[0]
        if is_token:
            return self._pop() if text in sought.tokens else ""
        while text in sought.begun and (yield from self._join()):
            text = self._units[0][0]
        found = sought.spelled.match(text) if sought.spelled else None
        return self.take(len(found[0])) if found else ""

    def unfinished(self, *marks: str) -> bool:
        """Whether the answer ended within one of `marks`, or before it."""
        begun = _marks(marks, self._tokens).begun
        return self.ended and (not self._units or (len(self._units) == 1 and self._units[0][0] in begun))

    def space(self) -> Reading[str]:
        """Read white space."""
        read = []
        while (yield from self.wait()):
            text, is_token = self._units[0]
            length = 0 if is_token else len(text) - len(text.lstrip())
            if length:
                read.append(self.take(length))
            if is_token or length < len(text):
                break
        return "".join(read)

    def peek(self) -> Reading[str]:
        """The text that has come next, without reading it: "" before a token and at the end."""
        if not (yield from self.wait()):
            return ""
        text, is_token = self._units[0]
        return "" if is_token else text

    def next(self) -> Reading[tuple[str, bool]]:
        """Read what came next: text and whether it is a token; ("", False) at the end."""
        if not (yield from self.wait()):
            return "", False
        unit = self._units.popleft()
        self._take(*unit)
        return unit

    def take(self, length: int) -> str:
        """Read so many characters of the text that has come next."""
        text, _ = self._units.popleft()
        self._put_back(text[length:])
        self._take(text[:length])
        return text[:length]

    def put_back(self, text: str) -> None:
        """Put back the last of what was read."""
        self._put_back(text)
        if self._read:
            last, is_token = self._read[-1]
            self._read[-1] = (last[: -len(text)], is_token)

    def _pop(self) -> str:
        text, is_token = self._units.popleft()
        self._take(text, is_token)
        return text

    def _put_back(self, text: str) -> None:
        if text:
            self._units.appendleft((text, False))

    def _take(self, text: str, is_token: bool = False) -> None:
        if self._read is not None:
            self._read.append((text, is_token))

    def _join(self) -> Reading[bool]:
        """Put the text that comes behind the next one with it. False if none does."""
        while len(self._units) == 1:
            if self.ended:
                return False
            yield
        if self._units[1][1]:
            return False
        first = self._units.popleft()[0]
        self._units[0] = (first + self._units[0][0], False)
        return True


def _held(text: str, sought: Marks) -> str:
    """The end of a text that may become a mark."""
    for length in range(min(len(text), sought.longest), 0, -1):
        if text[-length:] in sought.begun:
            return text[-length:]
    return ""
