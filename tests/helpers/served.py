"""A real server on loopback, in a thread of this process, and raw requests to it."""

import asyncio
import contextlib
import json
import signal
import socket
import threading
import time
from dataclasses import replace

from ellm.server.app import App
from ellm.server.bounds import Bounds
from ellm.server.server import Server, listen
from ellm.server.service import Service

NAME = "tiny"


class Served:
    """`url` is where it listens; `service` is what it runs."""

    def __init__(self, llm, keys, hosts, bounds):
        self._ready = threading.Event()
        self._arguments = llm, keys, hosts, bounds
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(30)

    def _run(self):
        llm, keys, hosts, bounds = self._arguments
        with listen("127.0.0.1", 0) as listener:
            self.port = listener.getsockname()[1]
            self.url = f"http://127.0.0.1:{self.port}"
            self.service = Service(llm, [NAME, "other"], replace(Bounds.of(llm.context), **bounds))
            app = App(self.service, keys=keys, hosts=hosts)
            self.server = Server(app, self.service, listener, started=self._started)
            self.server.serve_until_told()
            self.service.close()

    def _started(self):
        self.loop = asyncio.get_running_loop()
        self._ready.set()

    def signal(self):
        """What a signal to end does."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.server.handle_exit, signal.SIGTERM, None)

    def end(self):
        self.signal()
        self.signal()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def ask(self, method, path, body=None, headers=()):
        """One raw request; returns status, headers and body."""
        payload = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(payload)}", *headers]
        with self.connect() as connection:
            connection.sendall("\r\n".join(lines).encode() + b"\r\nConnection: close\r\n\r\n" + payload)
            return parsed(read_all(connection))


def read_all(connection):
    """What comes until the other side closes."""
    found = b""
    while piece := connection.recv(1 << 16):
        found += piece
    return found


def parsed(reply):
    """Status, headers and body of a whole reply."""
    head, _, body = reply.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    if headers.get("transfer-encoding") == "chunked":
        body = b"".join(_chunks(body))
    return int(status.split()[1]), headers, body


def _chunks(body):
    while body:
        size, _, body = body.partition(b"\r\n")
        yield body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]


@contextlib.contextmanager
def serving(llm, *, keys=(), hosts=(), **bounds):
    """A server of a model; `bounds` are fields of Bounds."""
    served = Served(llm, keys, hosts, bounds)
    try:
        yield served
    finally:
        served.end()


def wait_until(ready, seconds=20):
    """Until something that another thread does is so."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)
