"""Errors of requests, in the shape that the client of a path expects."""

from __future__ import annotations

import json
import logging
from typing import Any

from ellm.system.errors import LONGEST, harmless, one_line

_log = logging.getLogger(__name__)

_TYPES = {  # OpenAI's and Anthropic's names of what a status means
    400: ("invalid_request_error", "invalid_request_error"),
    401: ("authentication_error", "authentication_error"),
    403: ("permission_error", "permission_error"),
    404: ("not_found_error", "not_found_error"),
    405: ("invalid_request_error", "invalid_request_error"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "invalid_request_error"),
    429: ("rate_limit_error", "rate_limit_error"),
    431: ("invalid_request_error", "invalid_request_error"),
    503: ("overloaded_error", "overloaded_error"),
}
_SERVER = ("server_error", "api_error")


class ApiError(Exception):
    """A request that is not answered: the HTTP status, one line for its sender, and the field at fault."""

    def __init__(
        self,
        status: int,
        message: object,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(harmless(one_line(message, LONGEST)))
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Those that go with it."""
        headers = {"retry-after": str(self.retry_after)} if self.retry_after is not None else {}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers

    def openai(self) -> dict[str, Any]:
        """As OpenAI's clients read it."""
        kind = _TYPES.get(self.status, _SERVER)[0]
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def anthropic(self) -> dict[str, Any]:
        """As Anthropic's clients read it."""
        kind = _TYPES.get(self.status, _SERVER)[1]
        return {"type": "error", "error": {"type": kind, "message": str(self)}}

    def ollama(self) -> dict[str, Any]:
        """As Ollama's clients read it."""
        return {"error": str(self)}

    def shaped(self, path: str) -> dict[str, Any]:
        """In the shape of a path."""
        if path.startswith("/api/"):
            return self.ollama()
        return self.anthropic() if path.startswith("/v1/messages") else self.openai()

    def body(self, path: str) -> bytes:
        """The same as JSON."""
        return json.dumps(self.shaped(path)).encode()


def internal(error: Exception) -> ApiError:
    """What is told of a request that failed by no fault of its own; unless it is for want of memory, it is logged."""
    if isinstance(error, MemoryError):
        return ApiError(503, "there is no memory left for this request", code="generation_failed", retry_after=1)
    _log.error("a request failed", exc_info=error)
    return ApiError(500, "the request failed inside the server, which has logged it")
