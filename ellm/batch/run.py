"""Answers a batch: as many requests at a time as an engine has slots, and some that wait for one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
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
        self._streams: dict[int, tuple[Request, Stream]] = {}
        self._news: SimpleQueue[int] = SimpleQueue()  # lines whose streams have something new
        self._refused: dict[int, bytes] = {}

    def run(self) -> None:
        """Answer what is not answered yet. Raises InputError if answers cannot be written, or the LLM is closed."""
        try:
            for number, line in itertools.islice(self._lines, self._ledger.tally.lines, None):
                if self._ledger.expect(number):
                    self._begin(number, line)
                while len(self._streams) + len(self._refused) >= self._most:
                    self._collect()
            while self._streams or self._refused:
                self._collect()
            self._ledger.record({})
        finally:
            for _, stream in self._streams.values():
                stream.close()

    def _begin(self, number: int, line: bytes | None) -> None:
        found: dict[str, Any] = {}
        try:
            found = parse(line)
            request = self._reader.read(number, found)
            self._streams[number] = request, self._stream(number, request)
        except InputError as error:
            self._refused[number] = self._answers.error(number, found.get("custom_id"), error, REFUSED)

    def _stream(self, number: int, request: Request) -> Stream:
        params = SamplingParams(**request.sampling)
        options: dict[str, Any] = {"priority": "batch", "notify": partial(self._news.put, number)}
        try:
            if request.chat:
                return self._llm.stream_chat(request.prompt, params, **options, **request.template)
            return self._llm.stream(request.prompt, params, **options)
        except InputError as error:
            raise Refusal(error, "messages" if request.chat else "prompt") from error

    def _collect(self) -> None:
        """Keep the answers that are there; wait for news if there are none."""
        found, self._refused = self._refused, {}
        news = set() if found else {self._news.get()}
        while not self._news.empty():
            news.add(self._news.get())
        for number in news & self._streams.keys():
            line = self._answer(number, *self._streams[number])
            if line is not None:
                found[number] = line
                del self._streams[number]
        if found:
            self._ledger.record(found)
            self._moved(len(found))

    def _answer(self, number: int, request: Request, stream: Stream) -> bytes | None:
        """The line of an answer that has ended; None while it comes."""
        try:
            while pieces := stream.poll():
                pass
            if pieces is not None:
                return None
            output = stream.output
        except (InputError, StepError) as error:
            return self._answers.error(number, request.custom_id, error, FAILED)
        self.generated += len(output.token_ids)
        return self._answers.answer(number, request, output)
