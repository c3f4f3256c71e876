"""What handlers give back: a record as JSON, plain bytes, or events that are sent as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel
from pydantic_core import to_json

from ellm.server.answer import Answer
from ellm.server.errors import ApiError
from ellm.text.piece import Piece


@dataclass(frozen=True)
class Content:
    """All of a reply."""

    body: bytes
    media_type: str = "application/json"
    status: int = 200


def with_items(record: BaseModel, field: str, items: Iterable[str]) -> Content:
    """A record whose empty list `field` has these items, which are JSON.

    For lists of millions of numbers, in a thread: while pydantic writes one at once, no other thread runs.
    """
    begin, key, end = record.model_dump_json().partition(f'"{field}":[')  # in a text its quotes are escaped
    return Content((begin + key + ",".join(items) + end).encode())


class Events:
    """A reply in parts, whole events or lines, each sent when what it tells of has come.

    Attributes:
        idle: what is sent where nothing was for some seconds; clients pass over it.
    """

    media_type: ClassVar[str] = "text/event-stream"
    idle: bytes = b": \n\n"  # a comment

    def __init__(self, answers: Sequence[Answer]):
        self.answers = answers

    def begin(self) -> bytes:
        """What is sent before anything has come."""
        return b""

    def more(self, index: int, piece: Piece) -> bytes:
        """A piece of an answer has come."""
        raise NotImplementedError

    def end(self, index: int) -> bytes:
        """An answer is whole."""
        raise NotImplementedError

    def last(self) -> bytes:
        """All are."""
        return b""

    def failure(self, error: ApiError) -> bytes:
        """What ends the reply where an answer failed."""
        raise NotImplementedError

    def parts(self) -> Iterator[bytes | None]:
        """All of them, in order; None where nothing has come, so that the news of the answers are to be waited for.

        Raises ApiError if an answer failed.
        """
        yield self.begin()
        left = dict(enumerate(self.answers))
        while left:
            waits = True
            for index, answer in [*left.items()]:
                pieces = answer.poll()
                for piece in pieces or ():
                    yield self.more(index, piece)
                if pieces is None:
                    del left[index]
                    yield self.end(index)
                elif answer.ended:  # which is told of no more
                    waits = False
            if left and waits:
                yield None
        yield self.last()


def event(data: bytes | str, name: str | None = None) -> bytes:
    """One server-sent event; `data` has no line feed."""
    text = data.encode() if isinstance(data, str) else data
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + text + b"\n\n"


class Frame:
    """Events of a record of which one text is new each time; the others are made and written once."""

    def __init__(self, record: BaseModel, field: str):
        """Of a record whose `field` is empty."""
        begin, key, end = event(record.model_dump_json()).partition(f'"{field}":""'.encode())  # texts escape quotes
        self._begin, self._end = begin + key[:-2], end

    def event(self, text: str) -> bytes:
        """One with that text."""
        return self._begin + to_json(text) + self._end
