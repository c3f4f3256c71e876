"""The thread that runs an engine's steps; others queue what they want and wait for it."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from queue import Empty, SimpleQueue
from typing import NoReturn, TypeVar

import numpy as np

from ellm.serving.engine import Engine
from ellm.serving.entry import Entry
from ellm.serving.scoring import Scoring
from ellm.serving.sleep import Sleep
from ellm.system.errors import InputError

GATHER_SECONDS = 0.01  # about what it takes to read some dozen requests that come at once

T = TypeVar("T")
Job = Callable[[], object]


class Driver:
    """Runs an engine on a thread of its own, which sleeps while there is nothing to do. Any thread may use it.

    An interrupt may end a wait at any moment. So threads wake each other by a SimpleQueue, of which no thread ever
    holds a lock: the engine's would wait forever for one that an interrupt left locked. `free` is called when the
    engine is closed, for what its steps need; `sleep` gives that back meanwhile.
    """

    def __init__(self, engine: Engine, free: Callable[[], object] = lambda: None, sleep: Sleep | None = None):
        self._engine, self._sleep = engine, sleep
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()  # for between two steps; None ends the thread
        self._arriving: set[object] = set()
        self._closing = threading.Lock()  # nothing is queued behind the end
        self._closed = False
        self._process = os.getpid()
        self._thread = _EngineThread(engine, self._jobs, self._arriving, free, sleep)
        self._thread.start()
        weakref.finalize(self, self._jobs.put, None).atexit = False

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """While entries are prepared that are to be queued: where nothing is under way, the first step waits for them.

        It does so for GATHER_SECONDS at most, so that requests that come at once begin together.
        """
        one = object()
        self._arriving.add(one)
        try:
            yield
        finally:
            self._arriving.remove(one)
            self._jobs.put(_wake)

    def submit(self, entries: Sequence[Entry]) -> None:
        """Queue entries. Raises InputError if this is closed, and as `Engine.submit` does."""
        self._check_process()
        with self._closing:
            self._check_open()
            self._engine.submit(entries)
            self._ask(_wake)

    def run(self, entries: Sequence[Entry]) -> None:
        """Queue entries and wait until all have ended. They end early if an interrupt ends the wait."""
        bell: SimpleQueue[None] = SimpleQueue()
        for entry in entries:
            entry.notify = partial(_ring_at_end, entry, bell)
        try:
            self.submit(entries)
            for _ in entries:
                bell.get()
        except BaseException:
            self.cancel(entries)
            raise

    def cancel(self, entries: Sequence[Entry]) -> None:
        """End entries with the step under way. Never blocks, so that a finalizer may call it."""
        for entry in entries:
            entry.sequence.done = True
        self._ask(_wake)

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """The logits of every position of int32 [T] tokens, float32 [T, vocab]. Raises InputError without memory."""
        with self._scoring(tokens, 0, len(tokens)) as scoring:
            logits = np.empty((len(tokens), self._engine.program.vocab), np.float32)
            while scoring.done < len(tokens):
                self._call(partial(scoring.step, logits))
            return logits

    def logits_by_step(self, tokens: np.ndarray, first: int) -> Iterator[np.ndarray]:
        """The logits of the positions from `first` on, of one step after the other, each float32 [n, vocab].

        Raises as `logits` does.
        """
        with self._scoring(tokens, first, min(len(tokens), self._engine.batcher.chunk)) as scoring:
            while scoring.done < len(tokens):
                yield self._call(scoring.step)

    @contextmanager
    def _scoring(self, tokens: np.ndarray, first: int, held: int) -> Iterator[Scoring]:
        scoring = self._call(partial(Scoring, self._engine, tokens, first, held))
        try:
            yield scoring
        finally:
            self._ask(scoring.close)

    def close(self) -> None:
        """End every entry, with the step under way, and free what the engine holds."""
        if self._process != os.getpid():
            return
        with self._closing:
            if not self._closed:
                self._closed = True
                if self._sleep is not None:
                    self._sleep.stop()
                self._ask(None)
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _call(self, work: Callable[[], T]) -> T:
        """What `work`, which may run steps of its own, returns or raises between two steps."""
        reply: SimpleQueue[Callable[[], T]] = SimpleQueue()
        self._check_process()
        with self._closing:
            self._check_open()
            self._ask(partial(_answer, work, reply, self._sleep))
        return reply.get()()

    def _ask(self, job: Job | None) -> None:
        self._jobs.put(job)
        self._engine.hold()

    def _check_open(self) -> None:
        if self._closed or not self._thread.is_alive():
            raise InputError("this LLM is closed")

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise RuntimeError("this LLM's threads are those of another process, of which this one is a fork")


class _EngineThread(threading.Thread):
    """Runs steps and, between them, jobs; it knows no Driver, so that one that nobody has ends it."""

    def __init__(
        self,
        engine: Engine,
        jobs: SimpleQueue[Job | None],
        arriving: set[object],
        free: Callable[[], object],
        sleep: Sleep | None,
    ):
        super().__init__(name="ellm-engine", daemon=True)
        self._engine, self.jobs, self._arriving, self._free, self._sleep = engine, jobs, arriving, free, sleep

    def run(self) -> None:
        """Until None comes."""
        try:
            while True:
                try:
                    if not (self._do_jobs() and self._gather()):
                        break
                    if self._sleep is not None and not self._engine.idle:
                        self._sleep.end()
                    self._engine.step(self.jobs.empty)
                except BaseException as error:  # those who wait must hear of it
                    self._engine.fail(error)
        finally:
            try:
                self._engine.close(InputError("this LLM is closed"))
            finally:
                self._free()

    def _do_jobs(self) -> bool:
        """Those that are there, the next one if there is no step to run. Whether it was not the last one."""
        for _ in range(max(self.jobs.qsize(), self._engine.idle)):
            job = self._next()
            if job is None:
                return False
            job()
        return True

    def _gather(self) -> bool:
        """Do the jobs of those who arrive, for a moment, where nothing runs. Whether none was the last one."""
        until = time.monotonic() + GATHER_SECONDS
        while self._arriving and not self._engine.running and (left := until - time.monotonic()) > 0:
            try:
                job = self.jobs.get(timeout=left)
            except Empty:
                break
            if job is None:
                return False
            job()
        return True

    def _next(self) -> Job | None:
        """The next job, however long it takes to come."""
        while True:
            try:
                return self.jobs.get(timeout=self._sleep.due if self._sleep is not None else None)
            except Empty:
                assert self._sleep is not None
                self._sleep.begin()


def _wake() -> None:
    """The engine has something to look at."""


def _ring_at_end(entry: Entry, bell: SimpleQueue[None]) -> None:
    if entry.ended:
        bell.put(None)


def _answer(work: Callable[[], T], reply: SimpleQueue[Callable[[], T]], sleep: Sleep | None) -> None:
    try:
        if sleep is not None:
            sleep.end()
        result = work()
    except BaseException as error:
        reply.put(partial(_raise, error))
    else:
        reply.put(lambda: result)


def _raise(error: BaseException) -> NoReturn:
    raise error


@atexit.register
def _end_all() -> None:
    """Before what steps need is torn down."""
    for thread in threading.enumerate():
        if isinstance(thread, _EngineThread):
            thread.jobs.put(None)
            thread.join()
