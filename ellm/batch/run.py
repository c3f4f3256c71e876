"""Answers a batch: as many requests at a time as an engine has slots, and some that wait for one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

from ellm.batch.answers import Answers
from ellm.batch.ledger import Ledger
from ellm.batch.lines import Lines
from ellm.batch.request import Reader
from ellm.scheduler.pool import StepError
from ellm.server.errors import ApiError
from ellm.server.service import Call, Service
from ellm.system.errors import InputError
from ellm.system.limited_process import Ended

WAITING = 16  # requests that are read beyond those that the engine has slots for


class Batch:
    """Requests of a file under way in a service; `moved` is called with the number of answers that were kept."""

    def __init__(
        self,
        service: Service,
        lines: Lines,
        reader: Reader,
        answers: Answers,
        ledger: Ledger,
        moved: Callable[[int], None],
    ):
        self._service, self._lines, self._reader, self._answers = service, lines, reader, answers
        self._ledger, self._moved = ledger, moved
        self._most = service.llm.engine.slots + WAITING
        self._under_way: set[asyncio.Task[tuple[int, bytes]]] = set()

    async def run(self) -> None:
        """Answer what is not answered yet. Raises InputError if answers cannot be written, or the LLM is closed."""
        for number, line in itertools.islice(self._lines, self._ledger.tally.lines, None):
            if self._ledger.expect(number):
                self._under_way.add(asyncio.create_task(self._answered(number, line)))
            while len(self._under_way) >= self._most:
                await self._collect()
        while self._under_way:
            await self._collect()
        self._ledger.record({})

    async def _collect(self) -> None:
        """Wait for an answer, and keep it with all others that are there."""
        done, self._under_way = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        found = dict(task.result() for task in done)
        self._ledger.record(found)
        self._moved(len(found))

    async def _answered(self, number: int, line: bytes | None) -> tuple[int, bytes]:
        """The line of an answer, or of what is wrong. Raises what is wrong with more than this request."""
        found: dict[str, Any] = {}
        call = Call(self._service)
        call.id = self._answers.name(number)
        body = None
        try:
            found = self._reader.parse(line)
            request = self._reader.request(number, found)
            body = request.body if "body" in found else None  # a plain line has other fields
            reply = await _patiently(request.answer, call, request.body)
            return number, self._answers.answer(number, found.get("custom_id"), reply)
        except ApiError as error:
            if error.__cause__ is not None and not isinstance(error.__cause__, InputError | StepError):
                raise error.__cause__ from None
            return number, self._answers.error(number, found.get("custom_id"), error)
        except InputError as error:
            return number, self._answers.error(number, found.get("custom_id"), self._service.refusal(error, body))
        finally:
            call.close()


async def _patiently(answer: Callable[[Call, Any], Awaitable[Any]], call: Call, body: Any) -> Any:
    """The reply. A process for foreign code that ended is asked once more: it may be the machine that stood still."""
    try:
        return await answer(call, body)
    except InputError as error:
        if not isinstance(error.__cause__, Ended):
            raise
        return await answer(call, body)
