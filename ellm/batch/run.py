"""Answers a batch: as many requests at a time as an engine has slots, and some that wait for one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any

from ellm.batch.answers import FAILED, REFUSED, Answers
from ellm.batch.ledger import Ledger
from ellm.batch.lines import Lines
from ellm.batch.request import Reader, Refusal, Request, parse
from ellm.llm import LLM, Stream
from ellm.scheduler.pool import StepError
from ellm.serving.sampling import SamplingParams
from ellm.system.errors import InputError

WAITING = 16  # requests that are read beyond those that the engine has slots for


class Batch:
    """Requests of a file under way in an LLM; `moved` is called with the number of answers that were kept."""

    def __init__(
        self, llm: LLM, lines: Lines, reader: Reader, answers: Answers, ledger: Ledger, moved: Callable[[int], None]
    ):
        self.generated = 0  # tokens
        self._llm, self._lines, self._reader, self._answers = llm, lines, reader, answers
        self._ledger, self._moved = ledger, moved
        self._most = llm.engine.slots + WAITING
        self._streams: dict[int, Stream | None] = {}
        self._ended: SimpleQueue[tuple[int, bytes | BaseException, int]] = SimpleQueue()

    def run(self) -> None:
        """Answer what is not answered yet. Raises InputError if answers cannot be written, or the LLM is closed."""
        try:
            for number, line in itertools.islice(self._lines, self._ledger.tally.lines, None):
                if self._ledger.expect(number):
                    self._begin(number, line)
                while len(self._streams) >= self._most:
                    self._collect()
            while self._streams:
                self._collect()
            self._ledger.record({})
        finally:
            for stream in self._streams.values():
                if stream is not None:
                    stream.close()

    def _begin(self, number: int, line: bytes | None) -> None:
        found: dict[str, Any] = {}
        try:
            found = parse(line)
            request = self._reader.read(number, found)
            stream = self._stream(request)
        except InputError as error:
            self._streams[number] = None
            self._ended.put((number, self._answers.error(number, found.get("custom_id"), error, REFUSED), 0))
            return
        self._streams[number] = stream
        Thread(target=self._wait, args=(number, request, stream), daemon=True).start()

    def _stream(self, request: Request) -> Stream:
        params = SamplingParams(**request.sampling)
        try:
            if request.chat:
                return self._llm.stream_chat(request.prompt, params, **request.template)
            return self._llm.stream(request.prompt, params)
        except InputError as error:
            raise Refusal(error, "messages" if request.chat else "prompt") from error

    def _wait(self, number: int, request: Request, stream: Stream) -> None:
        """Wait for an answer, in a thread of its own."""
        try:
            for _ in stream.pieces():
                pass
            output = stream.output
            self._ended.put((number, self._answers.answer(number, request, output), len(output.token_ids)))
        except (InputError, StepError) as error:
            self._ended.put((number, self._answers.error(number, request.custom_id, error, FAILED), 0))
        except BaseException as error:
            self._ended.put((number, error, 0))

    def _collect(self) -> None:
        """Wait for an answer, and keep it with all others that are there."""
        found: dict[int, bytes] = {}
        while not found or not self._ended.empty():
            number, line, tokens = self._ended.get()
            if isinstance(line, BaseException):
                raise line
            found[number] = line
            self.generated += tokens
        self._ledger.record(found)
        for number in found:
            del self._streams[number]
        self._moved(len(found))
