"""One answer under way, as the event loop reads it."""

from __future__ import annotations

import time
from collections.abc import Callable

from ellm.server.errors import ApiError
from ellm.server.metrics import Metrics
from ellm.server.news import News
from ellm.serving.output import Drawn, Output, ToolCall
from ellm.serving.stream import Stream
from ellm.text.piece import Piece


class Answer:
    """Reads a stream; where nothing has come, `news`, which is rung for it, and maybe for others, is waited for."""

    def __init__(
        self,
        stream: Stream,
        news: News,
        metrics: Metrics,
        failure: Callable[[Exception], ApiError],
        most_calls: int | None = None,
    ):
        """Read it; `failure` says what ended it to a client, and of its calls of tools, `most_calls` are shown."""
        self.news = news
        self._stream, self._metrics, self._failure = stream, metrics, failure
        self._most_calls = most_calls
        self._begun = self._last = time.perf_counter()
        self._counted = False

    def poll(self) -> list[Piece] | None:
        """The pieces that have come since the last call, neighbours of a kind joined; None after the end.

        What the model wrote that is neither answer, reasoning nor a call is not among them.

        Raises ApiError if the request failed.
        """
        try:
            pieces = self._stream.poll()
        except Exception as error:
            raise self._failure(error) from error
        if pieces is None:
            self._end()
        elif pieces:
            self._time()
            return joined([piece for piece in pieces if self._shows(piece)])
        return pieces

    async def whole(self) -> Output:
        """The answer when it has ended. Raises ApiError if the request failed."""
        while (pieces := self.poll()) is not None:
            if not pieces and not self.ended:
                await self.news.wait()
        return self.output

    @property
    def ended(self) -> bool:
        """Whether nothing comes any more but what `poll` has not given yet."""
        return self._stream.ended

    @property
    def output(self) -> Output:
        """The answer so far. Raises ApiError if the request failed."""
        try:
            return self._stream.output
        except Exception as error:
            raise self._failure(error) from error

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
        if not self._counted:
            self._counted = True
            self._metrics.ended(self.output, time.perf_counter() - self._begun)


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
