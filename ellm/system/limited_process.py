"""A process of its own for work on what others wrote: it has some CPU time and memory for each request.

In this process such work could not be stopped: it may take minutes or all memory, or overflow the stack, and Python
cannot interrupt it. A process serves all threads; it is started when first needed, and again after one that had to be
ended. It leaves when this process does, since its stdin ends then.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ellm.system.errors import InputError

SECONDS = 1.0  # of CPU time for one request
MEMORY = 1 << 29  # bytes of address space
_PATIENCE = 15.0  # seconds until a process that does not even use CPU time is ended; its start is within


class Ended(Exception):
    """The process died of a request; the text says of what."""


class LimitedProcess:
    """A child that runs a module, which calls `serve`, and answers requests. Any thread may ask; they take turns."""

    def __init__(self, module: str, does: str):
        """`does`: what an error says of it."""
        self._module, self._does = module, does
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0  # the process that started it: after a fork the pipes are still those of the parent
        atexit.register(self.end)

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
            self._child, self._owner = self._started(), os.getpid()
        return self._child

    def _started(self) -> subprocess.Popen[bytes]:
        """The child sees this process's modules, and none of the signals of its terminal."""
        command = [sys.executable, "-P", "-S", "-m", self._module]
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
            raise InputError(f"the process that {self._does} cannot be started: {error.strerror}") from error
        assert child.stdin is not None
        os.set_blocking(child.stdin.fileno(), False)
        return child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None or self._owner != os.getpid():
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]


def serve(answer: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """In the child: answer requests, one JSON object a line, until stdin ends; whoever asks for more dies."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    memory = MEMORY if most == resource.RLIM_INFINITY else min(MEMORY, most)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        reply = answer(request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
        sys.stdout.buffer.flush()
    os._exit(0)


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
    if code == -signal.SIGSEGV:
        return "takes too much stack"
    return f"ended its process, with signal {-code}" if code < 0 else f"ended its process, with exit code {code}"
