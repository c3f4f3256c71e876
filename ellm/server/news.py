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
        self._rung: deque[asyncio.Event] = deque()
        self._waking = False

    def ring(self, loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
        """Set an event of the loop, from any thread."""
        self._rung.append(event)
        if not self._waking:
            self._waking = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._waking = False  # before they are looked through: who rings from here on wakes the loop again
        while self._rung:
            self._rung.popleft().set()


class News:
    """What is rung when a stream has something new. Belongs to the event loop that made it."""

    def __init__(self, bell: Bell) -> None:
        self._bell, self._loop, self._event = bell, asyncio.get_running_loop(), asyncio.Event()
        self.clear, self.wait = self._event.clear, self._event.wait

    def ring(self) -> None:
        """Say so, from any thread."""
        self._bell.ring(self._loop, self._event)
