"""From the bytes of a request to those of its reply: reads, checks, calls the handler, sends, and stops when the
client has left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from ellm.server.errors import ApiError, internal
from ellm.server.replies import Content, Events
from ellm.server.service import Call, Service, new_id
from ellm.server.validation import Body, validated
from ellm.system.errors import InputError

IDLE_SECONDS = 2.0  # without a byte, before a client is told that the server is still there
GUARDS = {"x-content-type-options": "nosniff", "x-frame-options": "DENY"}  # no other page may frame the chat


Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Handler = Callable[[Call, Any], Awaitable[BaseModel | Content | Events]]


@dataclass(frozen=True)
class Operation:
    """One method of one path: how it is called, and what the OpenAPI page says of it.

    Attributes:
        request: the model of its body, or None without one; a handler of the latter gets the path's parameters.
        response: the model of its reply; None if that is no JSON.
        part: the model of what it streams, if it does, as `streams_as`.
        generates: whether it counts as a request to the model.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    request: type[BaseModel] | None = None
    response: type[BaseModel] | None = None
    part: type[BaseModel] | None = None
    streams_as: str = "text/event-stream"
    media_type: str = "application/json"
    generates: bool = False


class Endpoint:
    """An operation as an ASGI application."""

    def __init__(self, operation: Operation, service: Service):
        self._operation, self._service = operation, service

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request."""
        call = Call(self._service, scope.get("salt", b""))
        sender = Sender(send, scope, call.id)
        request: Any = None
        try:
            request = await self._request(scope, receive)
            await _unless_gone(receive, self._reply(call, request, sender))
        except _Gone:
            self._service.metrics.refused(499)
        except Exception as error:
            failure = self._failure(error, request)
            self._service.metrics.refused(failure.status)
            await sender.error(failure)
        finally:
            call.close()

    def _failure(self, error: Exception, request: Any) -> ApiError:
        if isinstance(error, ApiError):
            return error
        if not isinstance(error, InputError):
            return internal(error)
        return self._service.refusal(error, request if isinstance(request, Body) else None)

    async def _request(self, scope: Any, receive: Receive) -> Any:
        if self._operation.request is None:
            return scope["path_params"]
        body = await read_body(scope, receive, self._service)
        return validated(self._operation.request, self._service.bounds.parsed(body))

    async def _reply(self, call: Call, request: Any, sender: Sender) -> None:
        if self._operation.generates:
            call.admit()
        reply = await self._operation.handler(call, request)
        if isinstance(reply, BaseModel):
            reply = Content(reply.model_dump_json().encode())
        if isinstance(reply, Content):
            await sender.content(reply)
        else:
            await sender.events(reply)


class Sender:
    """Sends the reply to one request."""

    def __init__(self, send: Send, scope: Any, request_id: str | None = None):
        self._send, self._path, self._connection = send, scope["path"], scope["state"]["connection"]
        self._id = request_id or new_id()
        self._started = False
        self._events: Events | None = None
        self._last = 0.0

    async def content(self, content: Content, headers: dict[str, str] | None = None) -> None:
        """A whole reply."""
        await self._start(
            content.status, content.media_type, {"content-length": str(len(content.body)), **(headers or {})}
        )
        await self._send({"type": "http.response.body", "body": content.body})

    async def events(self, events: Events) -> None:
        """A reply in parts, the head of which leaves at once."""
        self._events = events
        # nginx and its kin hold back what they do not know to be a stream
        await self._start(200, events.media_type, {"cache-control": "no-store", "x-accel-buffering": "no"})
        beat, news = asyncio.create_task(self._beat(events.idle)), events.answers[0].news  # all have the same
        try:
            for part in events.parts():
                if part is None:
                    await news.wait()
                else:
                    await self._part(part)
        finally:
            beat.cancel()
        await self._send({"type": "http.response.body", "body": b""})

    async def error(self, error: ApiError) -> None:
        """An error, in place of a reply or as the last part of one."""
        if not self._started:
            await self.content(Content(error.body(self._path), status=error.status), error.headers)
        elif self._events is not None:
            await self._part(self._events.failure(error))
            await self._send({"type": "http.response.body", "body": b""})

    async def _start(self, status: int, media_type: str, headers: dict[str, str]) -> None:
        self._started, self._last = True, time.monotonic()
        headers = {"content-type": media_type, "x-request-id": self._id, **GUARDS, **headers}
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def _part(self, part: bytes) -> None:
        self._last = time.monotonic()
        await self._connection.send_part(part)

    async def _beat(self, idle: bytes) -> None:
        while True:
            left = self._last + IDLE_SECONDS - time.monotonic()
            if left > 0:
                await asyncio.sleep(left)
            else:
                await self._part(idle)


async def read_body(scope: Any, receive: Receive, service: Service) -> bytes:
    """The body of a request. Raises ApiError if it is too long, or compressed, and _Gone if the client leaves."""
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.lower() != b"identity":
            raise ApiError(415, f"the request is encoded as {value.decode('latin-1')!r}, it must not be compressed")
        if name == b"content-length":
            service.bounds.check_length(int(value))
    body = bytearray()
    try:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            body += message["body"]
            service.body_bytes += len(message["body"])
            service.bounds.check_length(len(body))
            if service.body_bytes > service.bounds.bodies_bytes:
                most = service.bounds.bodies_bytes
                message = f"requests of {service.body_bytes} bytes are being received, at most {most} may be"
                raise ApiError(503, message, retry_after=1)
            if not message.get("more_body"):
                return bytes(body)
    finally:
        service.body_bytes -= len(body)


class _Gone(Exception):
    """The client has left."""


async def _unless_gone(receive: Receive, work: Any) -> None:
    """Do the work, but stop it and raise _Gone when the client leaves."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _Gone
        await task
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
