"""The process that renders chat templates, which are foreign code: it has a second and some memory for each request.

In this process a template could not be stopped: one multiplication or join of texts can take minutes or all memory, and
Python cannot interrupt it. One process serves all templates and threads; it is started when first needed, and again
after one that had to be ended. It leaves when this process does, since its stdin ends then.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ellm.system.errors import InputError

SECONDS = 1.0  # of CPU time for one request
MEMORY = 1 << 29  # bytes of address space
_PATIENCE = 15.0  # seconds until a process that does not even use CPU time is ended; its start is within


class Ended(Exception):
    """The process died of a request; the text says of what."""


class TemplateProcess:
    """A child that answers the requests of `template_engine.answer`. Any thread may ask; they take turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0  # the process that started it: after a fork the pipes are still those of the parent

    def start(self) -> None:
        """Start the child, so that it is there when it is needed; the first request says why that is impossible."""
        with self._lock, contextlib.suppress(InputError):
            self._running()

    def ask(self, request: str) -> dict[str, Any]:
        """The reply to a request in JSON. Raises Ended, or InputError if no process can be started."""
        line = request.encode(errors="surrogatepass") + b"\n"
        with self._lock:
            child = self._running()
            try:
                return json.loads(_exchange(child, line))
            except BaseException:  # KeyboardInterrupt too: its answer would be taken for that of the next request
                self._end()
                raise

    def end(self) -> None:
        """End the child, if there is one."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._owner != os.getpid() or self._child.poll() is not None:
            self._child, self._owner = _start(), os.getpid()
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None or self._owner != os.getpid():
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]


def _start() -> subprocess.Popen[bytes]:
    """The child sees this process's modules, and none of the signals of its terminal."""
    command = [sys.executable, "-P", "-S", "-m", "ellm.text.template_engine", str(SECONDS), str(MEMORY)]
    path = os.pathsep.join([str(Path(__file__).parents[2]), *map(os.path.abspath, sys.path)])
    try:
        child = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
    except OSError as error:
        raise InputError(f"the process that renders chat templates cannot be started: {error.strerror}") from error
    assert child.stdin is not None
    os.set_blocking(child.stdin.fileno(), False)
    return child


def _exchange(child: subprocess.Popen[bytes], line: bytes) -> bytes:
    """Write a line, read a line. Raises Ended."""
    assert child.stdin is not None and child.stdout is not None
    reader, writer = child.stdout.fileno(), child.stdin.fileno()
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    poll.register(writer, select.POLLOUT)
    rest, reply = memoryview(line), bytearray()
    deadline = time.monotonic() + _PATIENCE
    while not reply.endswith(b"\n"):
        ready = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
        if not ready:
            raise Ended(f"did not answer within {_PATIENCE:g} s")
        if reader in ready:
            piece = os.read(reader, 1 << 20)
            if not piece:
                raise Ended(_cause(child))
            reply += piece
        elif writer in ready:
            try:
                rest = rest[os.write(writer, rest) :]
            except BrokenPipeError:
                raise Ended(_cause(child)) from None
            if not rest:
                poll.unregister(writer)
    return bytes(reply)


def _cause(child: subprocess.Popen[bytes]) -> str:
    try:
        code = child.wait(1)
    except subprocess.TimeoutExpired:
        return "closed the pipes of its process"
    if code == -signal.SIGPROF:
        return f"takes more than {SECONDS:g} s"
    return f"ended its process, with signal {-code}" if code < 0 else f"ended its process, with exit code {code}"


PROCESS = TemplateProcess()
atexit.register(PROCESS.end)
