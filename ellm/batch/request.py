"""A line of the input as a request to an endpoint of the server, which checks and answers it as if it came by HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ellm.batch.document import read_document
from ellm.server.bounds import Bounds
from ellm.server.errors import ApiError
from ellm.server.openai_chat import ChatRequest, chat
from ellm.server.openai_completions import CompletionRequest, complete
from ellm.server.service import Call
from ellm.server.validation import validated
from ellm.serving.sampling import MOST_ANSWERS
from ellm.system.errors import InputError, one_line

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
_BATCH_LINE = ("custom_id", "method", "url", "body")
_ENDPOINTS: dict[str, tuple[type[BaseModel], Callable[[Call, Any], Awaitable[Any]]]] = {
    CHAT: (ChatRequest, chat),
    TEXT: (CompletionRequest, complete),
}


@dataclass(frozen=True)
class Request:
    """What `answer` is to answer."""

    body: Any
    answer: Callable[[Call, Any], Awaitable[Any]]


@dataclass(frozen=True)
class Reader:
    """Reads lines: of OpenAI's batch format, or with a "prompt", and perhaps a "document", by itself.

    `model` is what requests ask that name none, `folder` is where documents are looked for, `raw` continues a prompt by
    itself instead of asking it, `greedy` is how it is sampled if it does not say. Whatever is wrong with a line raises
    ApiError.
    """

    model: str
    folder: Path
    bounds: Bounds
    raw: bool
    greedy: bool

    def parse(self, line: bytes | None) -> dict[str, Any]:
        """The object that a line holds; null is as if it were not there."""
        if line is None or len(line) > self.bounds.body_bytes:
            raise ApiError(413, f"the line is longer than the {self.bounds.body_bytes} bytes that are read")
        found = self.bounds.parsed(line.removeprefix(b"\xef\xbb\xbf").strip())
        return {name: value for name, value in found.items() if value is not None}

    def request(self, number: int, line: dict[str, Any]) -> Request:
        """The request of a line, by its number and what `parse` makes of it."""
        url, body = self._of_batch(line) if "body" in line or "url" in line else self._plain(line)
        if body.get("stream"):
            raise _wrong("stream", body["stream"], "false, or left out: a batch has whole answers")
        if body.get("model") is None:
            body["model"] = self.model
        if body.get("seed") is None:  # so that an answer never depends on when it is made
            body["seed"] = number * MOST_ANSWERS  # n answers have the numbers that follow
        model, answer = _ENDPOINTS[url]
        return Request(validated(model, body), answer)

    def _of_batch(self, line: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        _custom_id(line)
        for name in line:
            if name not in _BATCH_LINE:
                raise _wrong(name, line[name], f"left out: a line has {', '.join(_BATCH_LINE)}")
        if line.get("method", "POST") != "POST":
            raise _wrong("method", line["method"], "'POST'")
        body, url = line.get("body"), line.get("url")
        if not isinstance(body, dict):
            raise _wrong("body", body, "an object")
        if not isinstance(url, str) or url not in _ENDPOINTS:
            raise _wrong("url", url, f"'{CHAT}' or '{TEXT}'")
        return url, dict(body)

    def _plain(self, line: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Answered as `ellm run` would."""
        _custom_id(line)
        body = {name: value for name, value in line.items() if name not in ("custom_id", "prompt", "document")}
        prompt, document = line.get("prompt"), line.get("document")
        if not isinstance(prompt, str) or not (prompt.strip() or document):
            raise _wrong("prompt", prompt, "a text")
        if "messages" in body:
            raise _wrong("messages", body["messages"], "left out: there is a prompt, or it is a body")
        if document is not None:
            prompt = f"{self._document(document)}\n\n{prompt}"
        if self.greedy:
            body.setdefault("temperature", 0.0)
        if not self.raw:
            return CHAT, body | {"messages": [{"role": "user", "content": prompt}]}
        body.setdefault("max_tokens", (1 << 31) - 1)  # the context ends it
        return TEXT, body | {"prompt": prompt}

    def _document(self, path: Any) -> str:
        if not isinstance(path, str) or not path:
            raise _wrong("document", path, "the path of a file")
        try:
            return read_document(self.folder / path, self.bounds.body_bytes)
        except InputError as error:
            raise ApiError(400, f"document {path!r}: {error}", param="document", code="invalid_value") from error


def _custom_id(line: Mapping[str, Any]) -> None:
    name = line.get("custom_id")
    if name is not None and not isinstance(name, str):
        raise _wrong("custom_id", name, "a text")


def _wrong(name: str, value: Any, wanted: str) -> ApiError:
    shown = one_line(repr(value), 100)
    return ApiError(400, f"{one_line(name, 60)} must be {wanted}, not {shown}", param=name, code="invalid_value")
