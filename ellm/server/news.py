"""How the engine's thread wakes those on the event loop who wait for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque


class Bell:
    """Wakes an event loop once for all that a step has made, as each time costs a system call and a turn of the loop.

    Belongs to one event loop, that of its news.
    """

    def __init__(self) -> None:
        self._rung: deque[News] = deque()
        self._waking = False

    def ring(self, loop: asyncio.AbstractEventLoop, news: News) -> None:
        """Set news of the loop, from any thread."""
        self._rung.append(news)
        if not self._waking:
            self._waking = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._waking = False  # before they are looked through: who rings from here on wakes the loop again
        while self._rung:
            self._rung.popleft().set()


class News:
    """What is rung when an answer has something new, for one who waits. Belongs to the event loop that made it.

    It is what asyncio.Event is to many, in a few lines: each token passes here.
    """

    def __init__(self, bell: Bell) -> None:
        self._bell, self._loop = bell, asyncio.get_running_loop()
        self._rung = False
        self._waiting: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Say that there is something, from any thread."""
        self._bell.ring(self._loop, self)

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
