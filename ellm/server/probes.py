"""`/health`, `/ready`, `/metrics`: for whoever watches over the process."""

from __future__ import annotations

from typing import Any, Literal

from ellm.server.errors import ApiError
from ellm.server.metrics import CONTENT_TYPE
from ellm.server.replies import Content
from ellm.server.service import Call
from ellm.server.validation import Record


class State(Record):
    """All is well."""

    status: Literal["ok"] = "ok"


async def health(call: Call, _: Any) -> State:
    """The process answers."""
    return State()


async def ready(call: Call, _: Any) -> State:
    """It takes requests. Raises ApiError 503 once it is shutting down."""
    if call.service.draining:
        raise ApiError(503, "the server is shutting down", code="shutting_down")
    return State()


async def metrics(call: Call, _: Any) -> Content:
    """Numbers for Prometheus."""
    return Content(call.service.metrics.page(), CONTENT_TYPE)
