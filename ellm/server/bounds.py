"""What one client may cost: every number that bounds a request, and the checks that need nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ellm.server.errors import ApiError

# Of the values in a request, in its schema too.
N = 16
STOPS = 16
STOP_CHARACTERS = 256
STOP_IDS = 64
NAME_CHARACTERS = 256
MESSAGES = 4096
PARTS = 4096
TOOLS = 256
PROMPTS = 64
EMBEDDINGS = 2048  # inputs of a request
INTEGER = (1 << 53) - 1  # beyond it clients do not agree on what a JSON number is

_DEPTH = 64  # of a JSON value
_SHORT_BODY = 1 << 20
_BYTES_A_TOKEN = 32  # of a body: twice what a character of two tokens takes that is written \uXXXX\uXXXX
_VALUES_A_TOKEN = 4


@dataclass(frozen=True)
class Bounds:
    """Of connections and bodies. Seconds, bytes and counts.

    Attributes:
        headers: of a request, and `header_bytes` of all of them with the request line.
        body_bytes: of one request; `bodies_bytes` of all that are being received at a time.
        body_values: numbers, texts, lists and objects in it.
        connections: that are open; one that owes a request makes way for a new one.
        requests: that are under way, the waiting ones among them.
        receive_seconds: from a connection's start, or its last answer, to the last byte of a request.
        stalled_seconds: that a client may leave what it was sent unread.
    """

    body_bytes: int
    body_values: int
    headers: int = 100
    header_bytes: int = 32 << 10
    bodies_bytes: int = 256 << 20
    connections: int = 4096
    requests: int = 256
    receive_seconds: float = 30.0
    stalled_seconds: float = 30.0

    @classmethod
    def of(cls, context: int, **others: Any) -> Bounds:
        """Those that let every prompt of a context in: what is longer could not be answered."""
        return cls(
            body_bytes=_SHORT_BODY + _BYTES_A_TOKEN * context,
            body_values=(_SHORT_BODY >> 3) + _VALUES_A_TOKEN * context,
            **others,
        )

    def check_headers(self, scope: Any) -> None:
        """Raises ApiError 431."""
        headers = scope["headers"]
        if len(headers) > self.headers:
            raise ApiError(431, f"the request has {len(headers)} headers, at most {self.headers} are read")
        size = sum(len(name) + len(value) + 4 for name, value in headers)
        size += len(scope.get("raw_path") or b"") + len(scope["query_string"])
        if size > self.header_bytes:
            raise ApiError(431, f"the request has headers of {size} bytes, at most {self.header_bytes} are read")

    def check_length(self, length: int) -> None:
        """Of a body. Raises ApiError 413."""
        if length > self.body_bytes:
            raise ApiError(413, f"the request has {length} bytes or more, at most {self.body_bytes} are read")

    def parsed(self, body: bytes) -> dict[str, Any]:
        """The JSON object in a body. Raises ApiError 400."""
        values = sum(map(body.count, (b",", b"[", b"{")))  # at least; those in texts only make it stricter
        if values > self.body_values:
            raise ApiError(400, f"the request has up to {values} values, at most {self.body_values} are read")
        try:
            value = json.loads(body, parse_constant=_refuse_constant)
        except RecursionError:
            raise ApiError(400, f"the request is nested more than {_DEPTH} deep") from None
        except ValueError as error:  # of JSON, of UTF-8, of a number of too many digits
            raise ApiError(400, f"the request is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise ApiError(400, f"the request must be a JSON object, not {type(value).__name__}")
        _check_depth(value)
        return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _check_depth(value: dict[str, Any]) -> None:
    level: Sequence[Any] = [value]
    for _ in range(_DEPTH):
        level = [
            item
            for one in level
            for item in (one.values() if isinstance(one, dict) else one)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise ApiError(400, f"the request is nested more than {_DEPTH} deep")
