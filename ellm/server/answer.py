"""One answer under way, as the event loop reads it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

from ellm.llm import Stream
from ellm.server.errors import ApiError
from ellm.server.metrics import Metrics
from ellm.serving.output import Output
from ellm.system.errors import InputError
from ellm.text.piece import Piece

_log = logging.getLogger(__name__)


class Answer:
    """Reads a stream in a thread of its own; belongs to the event loop that made it."""

    def __init__(self, stream: Stream, metrics: Metrics):
        self._stream, self._metrics = stream, metrics
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._pieces: list[Piece] = []
        self._done = False
        self._error: BaseException | None = None
        self._begun = self._last = time.perf_counter()
        self._told = False
        threading.Thread(target=self._read, name="ellm-answer", daemon=True).start()

    async def more(self) -> list[Piece] | None:
        """The pieces that have come, one at least, neighbours of a kind joined; None at the end.

        Raises ApiError if the request failed.
        """
        await self._news.wait()
        self._news.clear()
        pieces, self._pieces = self._pieces, []
        if pieces:
            self._time()
            if self._done:
                self._news.set()
            return joined(pieces)
        self._news.set()  # whoever asks again hears the same
        if self._error is not None:
            raise _as_api_error(self._error)
        self._end()
        return None

    async def whole(self) -> Output:
        """The answer when it has ended. Raises ApiError if the request failed."""
        while await self.more() is not None:
            pass
        return self.output

    @property
    def output(self) -> Output:
        """The answer so far."""
        return self._stream.output

    def close(self) -> None:
        """End the request if it is under way, and free what it holds."""
        self._stream.close()

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            for piece in self._stream.pieces():
                self._loop.call_soon_threadsafe(self._take, piece)
        except BaseException as caught:  # the loop's to tell
            error = caught
        try:
            self._loop.call_soon_threadsafe(self._finish, error)
        except RuntimeError:  # the loop is closed: nobody reads any more
            self._stream.close()

    def _take(self, piece: Piece) -> None:
        self._pieces.append(piece)
        self._news.set()

    def _finish(self, error: BaseException | None) -> None:
        self._done, self._error = True, error
        self._news.set()

    def _time(self) -> None:
        now = time.perf_counter()
        self._metrics.came(now - self._last, first=self._last == self._begun)
        self._last = now

    def _end(self) -> None:
        if not self._told:
            self._told = True
            self._metrics.ended(self.output, time.perf_counter() - self._begun)


def joined(pieces: list[Piece]) -> list[Piece]:
    """Pieces with neighbours of a kind as one."""
    found = pieces[:1]
    for piece in pieces[1:]:
        if piece.kind == found[-1].kind:
            found[-1] = piece._replace(text=found[-1].text + piece.text)
        else:
            found.append(piece)
    return found


def _as_api_error(error: BaseException) -> ApiError:
    if isinstance(error, InputError):  # no memory for this sequence, or the model is broken
        return ApiError(503, error, code="generation_failed")
    _log.error("a request failed", exc_info=error)
    return ApiError(500, "the request failed inside the server, which has logged it")
