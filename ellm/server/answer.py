"""One answer under way, as the event loop reads it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from ellm.server.errors import ApiError
from ellm.server.metrics import Metrics
from ellm.server.news import News
from ellm.serving.output import Drawn, Output, ToolCall
from ellm.serving.stream import Stream
from ellm.text.piece import Piece


class Answer:
    """Reads a stream that `news` is rung for."""

    def __init__(
        self,
        stream: Stream,
        news: News,
        metrics: Metrics,
        failure: Callable[[Exception], ApiError],
        most_calls: int | None = None,
    ):
        """Read it; `failure` says what ended it to a client, and of its calls of tools, `most_calls` are shown."""
        self._stream, self._news, self._metrics, self._failure = stream, news, metrics, failure
        self._most_calls = most_calls
        self._begun = self._last = time.perf_counter()
        self._ended = False

    async def more(self) -> list[Piece] | None:
        """The pieces that have come, one at least, neighbours of a kind joined; None at the end.

        What the model wrote that is neither answer, reasoning nor a call is not among them.

        Raises ApiError if the request failed.
        """
        while True:
            self._news.clear()
            try:
                pieces = self._stream.poll()
            except Exception as error:
                raise self._failure(error) from error
            if pieces is None:
                self._end()
                return None
            if pieces:
                self._time()
                if shown := joined([piece for piece in pieces if self._shows(piece)]):
                    return shown
                continue
            await self._news.wait()

    async def whole(self) -> Output:
        """The answer when it has ended. Raises ApiError if the request failed."""
        while await self.more() is not None:
            pass
        return self.output

    @property
    def output(self) -> Output:
        """The answer so far."""
        return self._stream.output

    def drawn(self, first: int) -> Drawn:
        """The tokens of the answer so far, from the `first` on."""
        return self._stream.drawn(first)

    @property
    def calls(self) -> list[ToolCall]:
        """The calls of tools in the answer so far."""
        return self.output.tool_calls[: self._most_calls]

    def close(self) -> None:
        """End the request if it is under way, and free what it holds."""
        self._stream.close()

    def _shows(self, piece: Piece) -> bool:
        if piece.kind != "tool" or self._most_calls is None:
            return piece.kind != "rest"
        return piece.index is None or piece.index < self._most_calls

    def _time(self) -> None:
        now = time.perf_counter()
        self._metrics.came(now - self._last, first=self._last == self._begun)
        self._last = now

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._metrics.ended(self.output, time.perf_counter() - self._begun)


async def together(answers: Sequence[Answer]) -> AsyncIterator[tuple[int, Any]]:
    """What comes of several answers: (which of them, its pieces), and (which, None) when it has ended."""
    if len(answers) == 1:
        while (pieces := await answers[0].more()) is not None:
            yield 0, pieces
        yield 0, None
        return
    waiting = {asyncio.ensure_future(answer.more()): index for index, answer in enumerate(answers)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                index, pieces = waiting.pop(task), task.result()
                yield index, pieces
                if pieces is not None:
                    waiting[asyncio.ensure_future(answers[index].more())] = index
    finally:
        for task in waiting:
            task.cancel()


def joined(pieces: list[Piece]) -> list[Piece]:
    """Pieces with neighbours of a kind, and of the same call, as one."""
    found = pieces[:1]
    for piece in pieces[1:]:
        last = found[-1]
        if piece.kind == last.kind and piece.index == last.index and piece.name is None:
            found[-1] = Piece(last.text + piece.text, last.kind, last.index, last.name, last.id)
        else:
            found.append(piece)
    return found
