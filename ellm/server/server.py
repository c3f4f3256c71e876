"""The process: listens, drains when it is told to end, and looks after connections."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from ellm.server.app import App
from ellm.server.bounds import Bounds
from ellm.server.connection import Connection, connections
from ellm.server.service import Service
from ellm.system.errors import InputError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_TICK = 1.0  # seconds; of the Date header and of deadlines
_KEEP_ALIVE = 15  # seconds that a connection without a request is kept
_OTHER_FILES = 256  # descriptors for what is no connection
_FEWEST = 16
_BACKLOG = 2048  # connections that the kernel keeps until they are accepted
_ACCEPTED = 32  # of these, so many at once: requests under way wait meanwhile


class Server(uvicorn.Server):
    """Serves an application until a signal. The first one drains: no new requests, those under way are finished; the
    second ends them too."""

    def __init__(
        self, app: App, service: Service, listener: socket.socket, *, started: Callable[[], None] = lambda: None
    ):
        config = uvicorn.Config(
            app,
            http=connections(service.bounds),
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="error",  # clients write nothing into the log
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=2,
            backlog=_ACCEPTED,
            h11_max_incomplete_event_size=service.bounds.header_bytes,
        )
        super().__init__(config)
        self._service, self._listener, self._started = service, listener, started
        self._told = asyncio.Event()
        service.on_idle = self._end

    def serve_until_told(self) -> None:
        """Listen until the server is told to end."""
        asyncio.run(self.serve([self._listener]))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain, or end at once if it is draining."""
        if self._service.draining:
            self.force_exit = True
            self._end()
        else:
            self._service.drain()

    def _end(self) -> None:
        self.should_exit = True
        self._told.set()

    async def main_loop(self) -> None:
        """Look after connections until the end."""
        gc.collect()
        gc.freeze()  # what was loaded stays: collections pass over it
        self._listener.listen(_BACKLOG)
        self._started()
        while not self.should_exit:
            await self.on_tick(0)
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection) and connection.overdue(now):
                    connection.transport.abort()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), _TICK)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """By the event loop, which is woken by them."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(RuntimeError, ValueError):  # not the main thread, whose signals they are
            for number in _SIGNALS:
                loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises InputError if that is impossible."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise InputError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error


def most_connections(wanted: int = Bounds.connections) -> int:
    """How many connections this process may have, once it has asked for as many descriptors as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(_FEWEST, min(wanted, soft - _OTHER_FILES))
