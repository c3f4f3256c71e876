"""A client's connection: uvicorn's, with deadlines for what the client owes and a bound on how many there are."""

from __future__ import annotations

import logging
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ellm.server.bounds import Bounds
from ellm.server.errors import ApiError

_log = logging.getLogger(__name__)


def connections(bounds: Bounds) -> type[Connection]:
    """The class of connections with these bounds, for uvicorn to make."""
    return type("BoundConnection", (Connection,), {"bounds": bounds, "in_order": {}})


class Connection(H11Protocol):
    """One connection. `overdue` says whether it costs more than it may; who asks is the server's clock.

    `in_order` has all of a server, those first that have owed the next request, or been answered, for longest.
    """

    bounds: Bounds
    in_order: dict[Connection, None]

    def __init__(self, *arguments: Any, **more: Any):
        super().__init__(*arguments, **more)
        self.app_state = {**self.app_state, "connection": self}  # which a request's scope has as its state

    def connection_made(self, transport: Any) -> None:
        """Take it; where there are too many, the one makes way that has owed a request for longest."""
        super().connection_made(transport)
        self._stalled_since: float | None = None
        self._owe()
        if len(self.connections) > self.bounds.connections:
            longest = next(one for one in self.in_order if one.owes)
            del self.in_order[longest]
            longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self.in_order.pop(self, None)
        super().connection_lost(exc)

    @property
    def owes(self) -> bool:
        """Whether the client has still to send a request, or the rest of one."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not self.transport.is_closing()

    def overdue(self, now: float) -> bool:
        """Whether the client is too slow to send its request, or to read what it was sent."""
        if self.transport.is_closing() and self._stalled_since is None:
            self._stalled_since = now
        if self._stalled_since is not None:
            return now - self._stalled_since > self.bounds.stalled_seconds
        return self.owes and now - self._owed_since > self.bounds.receive_seconds

    async def send_part(self, part: bytes) -> None:
        """More of the reply under way, which has begun without saying how long it is.

        What uvicorn and h11 make of it, without their layers: each token of each answer passes here.
        """
        if self.flow.write_paused:
            await self.flow.drain()
        if part and not self.transport.is_closing():  # which is before the cycle hears that it is disconnected
            chunked = (self.conn.their_http_version or b"") >= b"1.1"
            self.transport.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)

    def on_response_complete(self) -> None:
        """The next request is due."""
        self._owe()
        super().on_response_complete()

    def _owe(self) -> None:
        self._owed_since = self.loop.time()
        self.in_order.pop(self, None)
        self.in_order[self] = None

    def pause_writing(self) -> None:
        """The client does not read as fast as it is written to."""
        super().pause_writing()
        self._stalled_since = self.loop.time()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._stalled_since = None

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP. What is being answered meanwhile is cut off, as nobody can tell where it would end."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        body = ApiError(400, msg).body("/")
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
