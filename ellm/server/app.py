"""The ASGI application: who may ask, which operation it is, and nothing else."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ellm.server import openapi
from ellm.server.access import Access
from ellm.server.endpoint import Endpoint, Receive, Send, Sender
from ellm.server.errors import ApiError
from ellm.server.operations import OPERATIONS
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
            await Sender(send, scope["path"], "").error(error)
        else:
            await self._router({**scope, "salt": salt}, receive, send)


def _router(service: Service) -> Starlette:
    routes = [Route(one.path, Endpoint(one, service), methods=[one.method]) for one in OPERATIONS]
    page = openapi.document(OPERATIONS)

    async def describe(_: Request) -> Response:
        return Response(page, media_type="application/json")

    routes.append(Route("/openapi.json", describe))
    found = Starlette(routes=routes, exception_handlers={HTTPException: _refused})
    found.router.redirect_slashes = False
    return found


async def _refused(request: Request, exception: Exception) -> Response:
    """There is no such path, or it has no such method."""
    assert isinstance(exception, HTTPException)
    path = request.url.path
    error = ApiError(exception.status_code, f"there is no {request.method} {path}", code="unknown_url")
    return Response(error.body(path), error.status, exception.headers, "application/json")
