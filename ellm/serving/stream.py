"""An answer as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from queue import SimpleQueue

from ellm.serving.completion import Completion
from ellm.serving.driver import Driver
from ellm.serving.output import Drawn, Output
from ellm.text.piece import Piece


class Stream(Iterator[str]):
    """The text of an answer as it comes. Dropping or closing it early ends the request and frees its memory."""

    def __init__(self, driver: Driver, completion: Completion, notify: Callable[[], object] | None = None):
        self._driver = driver
        self._completion = completion
        self._read = 0
        self._closed = False
        self._bell: SimpleQueue[None] = SimpleQueue()
        completion.notify = partial(_tell, self._bell, notify)

    def __next__(self) -> str:
        while True:
            text = "".join(piece.text for piece in self._more() if piece.kind == "answer")
            if text:
                return text

    def pieces(self) -> Iterator[Piece]:
        """The same with all else: pieces, whose `kind` is "answer", "reasoning", "tool" or "rest".

        Those of a call have its `index`; the first one has its `name` and `id`, the others more of its arguments.
        """
        while True:
            try:
                more = self._more()
            except StopIteration:
                return
            yield from more

    def poll(self) -> list[Piece] | None:
        """The pieces that have come since the last call, without waiting; None after the end.

        Raises what ended the request in an error.
        """
        completion, ended = self._completion, self.ended  # before the pieces are read: others may come while it is not
        pieces = completion.pieces[self._read :]
        self._read += len(pieces)
        if pieces or not ended:
            return pieces
        if completion.sequence.error is not None:
            raise completion.sequence.error
        return None

    def _more(self) -> list[Piece]:
        """One piece at least. Raises StopIteration at the end, and what ended the request in an error."""
        while (pieces := self.poll()) == []:
            self._bell.get()
        if pieces is None:
            raise StopIteration
        return pieces

    @property
    def ended(self) -> bool:
        """Whether nothing comes any more but what was not read yet."""
        return self._completion.ended or self._closed

    @property
    def output(self) -> Output:
        """The answer so far; whole once the iteration has ended."""
        return self._completion.output()

    def drawn(self, first: int = 0) -> Drawn:
        """The generated tokens so far, from the `first` on: cheaper than `output`, which has all of them."""
        return self._completion.drawn(first)

    def close(self) -> None:
        """End the request with the step under way, and free what it holds then. Never blocks."""
        self._closed = True
        if not self._completion.ended:
            self._driver.cancel([self._completion])
            self._bell.put(None)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def _tell(bell: SimpleQueue[None], notify: Callable[[], object] | None) -> None:
    bell.put(None)
    if notify is not None:
        notify()
