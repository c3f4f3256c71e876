"""Who runs an engine's steps: the threads that wait for them, in turns."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ellm.serving.completion import Completion
from ellm.serving.engine import Engine
from ellm.serving.ranges import PromptCache
from ellm.serving.scoring import Scoring
from ellm.system.errors import InputError


class Driver:
    """Lets any thread use an engine: whoever waits runs the next step for everybody, so calls share their steps."""

    def __init__(self, engine: Engine):
        self.closed = False
        self._engine = engine
        self._lock = threading.Lock()
        self._condition = threading.Condition(self._lock)
        self._turns: deque[object] = deque()  # its head runs a step; the others wait for that

    def submit(self, completions: Sequence[Completion]) -> None:
        """Queue completions; `wait` runs them. Raises InputError if a prompt cache is in use or this is closed."""
        with self._lock:
            self._check_open()
            self._engine.submit(completions)

    def wait(self, ready: Callable[[], bool]) -> None:
        """Run steps until `ready()`, taking turns with other threads."""
        while not ready():
            with self._turn(ready) as mine:
                if mine:
                    self._engine.step()

    def cancel(self, completions: Sequence[Completion]) -> None:
        """End completions early and free what they hold. Never blocks, so that a finalizer may call it."""
        for completion in completions:
            completion.sequence.done = True
        if self._lock.acquire(blocking=False):
            try:
                if not self._turns:  # else the thread whose turn it is releases them
                    self._engine.release()
            finally:
                self._lock.release()

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """The logits of every position of int32 [T] tokens, float32 [T, vocab]. Raises InputError without memory."""
        with self._scoring(tokens, 0, len(tokens)) as scoring:
            logits = np.empty((len(tokens), self._engine.program.vocab), np.float32)
            while scoring.done < len(tokens):
                with self._turn():
                    scoring.step(logits)
            return logits

    def logits_by_step(self, tokens: np.ndarray, first: int) -> Iterator[np.ndarray]:
        """The logits of the positions from `first` on, of one step after the other, each float32 [n, vocab].

        Raises as `logits` does.
        """
        with self._scoring(tokens, first, min(len(tokens), self._engine.batcher.chunk)) as scoring:
            while scoring.done < len(tokens):
                with self._turn():
                    logits = scoring.step()
                yield logits

    @contextmanager
    def _scoring(self, tokens: np.ndarray, first: int, held: int) -> Iterator[Scoring]:
        with self._turn():
            scoring = Scoring(self._engine, tokens, first, held)
        try:
            yield scoring
        finally:
            if not self.closed:  # which gives all ranges back
                with self._turn():
                    scoring.close()

    def clear(self, cache: PromptCache) -> None:
        """Give the pages of a prompt cache back. Raises InputError if a completion uses it."""
        with self._turn():
            self._engine.clear(cache)

    def close(self) -> None:
        """End every completion, after the step under way, and free what the engine holds."""
        if self.closed:
            return
        with self._turn():
            self.closed = True
            self._engine.close(InputError("this LLM is closed"))

    def _check_open(self) -> None:
        if self.closed:
            raise InputError("this LLM is closed")

    @contextmanager
    def _turn(self, unless: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """The sole right to the engine, first come, first served. False without it: `unless()` came true before."""
        ticket = object()
        mine = False
        try:
            self._turns.append(ticket)
            with self._lock:
                self._condition.wait_for(lambda: unless() or self._turns[0] is ticket)
                mine = not unless()
                if mine:
                    self._check_open()
            yield mine
        finally:
            with self._lock:
                try:
                    if mine:
                        self._engine.release()
                finally:
                    self._turns.remove(ticket)
                    self._condition.notify_all()
