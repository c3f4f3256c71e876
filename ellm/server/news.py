"""How the engine's thread wakes those on the event loop who wait for it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import weakref
from collections import deque

_LIBC = ctypes.PyDLL(None)  # whose functions, unlike those of CDLL, do not give the interpreter up
_LIBC.eventfd_write.argtypes = (ctypes.c_int, ctypes.c_uint64)


class Bell:
    """Wakes an event loop once for all that a step has made, as each time costs a system call and a turn of the loop.

    While it does, the interpreter is not given up, as `call_soon_threadsafe` does: the loop would take it, and the
    engine, and with it all workers, would wait to begin the next step. Belongs to one event loop, that of its news.
    """

    def __init__(self) -> None:
        self._rung: deque[News] = deque()
        self._waking = False
        self._counter = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._loop: asyncio.AbstractEventLoop | None = None
        weakref.finalize(self, os.close, self._counter)

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake this loop, which calls."""
        if self._loop is None:
            self._loop = loop
            loop.add_reader(self._counter, self._wake)

    def ring(self, news: News) -> None:
        """Set news on the loop, from any thread."""
        self._rung.append(news)
        if not self._waking:
            self._waking = True
            _LIBC.eventfd_write(self._counter, 1)

    def _wake(self) -> None:
        os.eventfd_read(self._counter)
        self._waking = False  # before they are looked through: who rings from here on wakes the loop again
        while self._rung:
            self._rung.popleft().set()


class News:
    """What is rung when an answer has something new, for one who waits. Belongs to the event loop that made it.

    It is what asyncio.Event is to many, in a few lines: each token passes here.
    """

    def __init__(self, bell: Bell) -> None:
        self._bell, self._loop = bell, asyncio.get_running_loop()
        bell.listen(self._loop)
        self._rung = False
        self._waiting: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Say that there is something, from any thread."""
        self._bell.ring(self)

    def set(self) -> None:
        """The same, on the event loop."""
        self._rung = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def wait(self) -> None:
        """Until there was something since the last wait."""
        if not self._rung:
            self._waiting = self._loop.create_future()
            await self._waiting
        self._rung = False
