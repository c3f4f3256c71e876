"""The ASGI application: who may ask, which operation it is, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from ellm.pages.api import api_page
from ellm.server import openapi
from ellm.server.access import Access
from ellm.server.endpoint import GUARDS, Endpoint, Receive, Send, Sender
from ellm.server.errors import ApiError
from ellm.server.operations import OPERATIONS
from ellm.server.replies import Content
from ellm.server.service import Service


class App:
    """Checks what every request must have, then hands it to its endpoint."""

    def __init__(self, service: Service, *, keys: Collection[str] = (), hosts: Collection[str] = ()):
        self._service, self._access = service, Access(keys, hosts)
        self._router = _router(service)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            self._service.bounds.check_headers(scope)
            salt = self._access.check(scope)
        except ApiError as error:
            self._service.metrics.refused(error.status)
            await Sender(send, scope).error(error)
            return
        try:  # the router itself, without the layers of an application between it and each part of each answer
            await self._router({**scope, "salt": salt, "app": self}, receive, send)
        except HTTPException as error:
            await _refuse(error, scope, send)


def _router(service: Service) -> Router:
    routes = [Route(one.path, Endpoint(one, service), methods=[one.method]) for one in OPERATIONS]
    document = openapi.document(OPERATIONS)
    routes.append(_fixed("/openapi.json", document, "application/json"))
    routes.append(_fixed("/docs", api_page(json.loads(document)).encode(), "text/html; charset=utf-8"))
    return Router(routes, redirect_slashes=False)


def _fixed(path: str, body: bytes, media_type: str) -> Route:
    async def reply(_: Request) -> Response:
        return Response(body, media_type=media_type, headers=GUARDS)

    return Route(path, reply)


async def _refuse(exception: HTTPException, scope: Any, send: Send) -> None:
    """There is no such path, or it has no such method."""
    path = scope["path"]
    error = ApiError(exception.status_code, f"there is no {scope['method']} {path}", code="unknown_url")
    content = Content(error.body(path), status=error.status)
    await Sender(send, scope).content(content, dict(exception.headers or {}))
