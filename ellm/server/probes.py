"""`/health`, `/ready`, `/metrics`, `/status` and the page at `/`: for whoever watches over the process."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Literal

from ellm.pages.serve import serve_page
from ellm.server.errors import ApiError
from ellm.server.metrics import CONTENT_TYPE
from ellm.server.replies import Content
from ellm.server.service import Call
from ellm.server.validation import Record


class State(Record):
    """All is well. `asleep`: the model is given back, and had again for the next request."""

    status: Literal["ok", "asleep"] = "ok"


async def health(call: Call, _: Any) -> State:
    """The process answers."""
    return State()


async def ready(call: Call, _: Any) -> State:
    """It takes requests. Raises ApiError 503 once it is shutting down."""
    if call.service.draining:
        raise ApiError(503, "the server is shutting down", code="shutting_down")
    return State(status="asleep" if call.service.llm.statistics().asleep else "ok")


async def status(call: Call, _: Any) -> Content:
    """What the model is doing at this moment, for the page."""
    service = call.service
    found = await service.off_loop(lambda: service.status.now(service.llm.statistics()))
    return Content(json.dumps(found).encode())


async def page(call: Call, _: Any) -> Content:
    """A chat with the model, and what it is doing, for a browser. It holds nothing of either."""
    return Content(_page(), "text/html; charset=utf-8")


@cache
def _page() -> bytes:
    return serve_page().encode()


async def metrics(call: Call, _: Any) -> Content:
    """Numbers for Prometheus."""
    return Content(call.service.metrics.page(), CONTENT_TYPE)
