"""What handlers give back: a record as JSON, plain bytes, or events that are sent as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass

from pydantic import BaseModel

from ellm.server.errors import ApiError


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


@dataclass(frozen=True)
class Events:
    """A reply in parts, each sent when it comes.

    Attributes:
        parts: whole events, or lines.
        failure: the part that tells of an error once parts have been sent.
        idle: what is sent where nothing was for some seconds; clients pass over it.
    """

    parts: AsyncIterator[bytes]
    failure: Callable[[ApiError], bytes]
    media_type: str
    idle: bytes | None = None


def server_sent(parts: AsyncIterator[bytes], failure: Callable[[ApiError], bytes], idle: bytes = b": \n\n") -> Events:
    """Server-sent events; those that nobody waits for are comments."""
    return Events(parts, failure, "text/event-stream", idle)


def event(data: bytes | str, name: str | None = None) -> bytes:
    """One server-sent event; `data` has no line feed."""
    text = data.encode() if isinstance(data, str) else data
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + text + b"\n\n"
