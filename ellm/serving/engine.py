"""Sequences to steps: which rows run next, for all requests that are under way.

Threads take turns: whoever waits for a request runs the next step for everybody, so concurrent calls share their steps.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from ellm.compiled import EXPANDED_ROWS, token_bytes
from ellm.kernels.contract import SAMPLING
from ellm.scheduler import StepInput
from ellm.scheduler.program import Program
from ellm.serving.ranges import PromptCache, RangePool
from ellm.serving.request import Request
from ellm.system import memory
from ellm.system.errors import InputError

ROOM = 32 << 20  # bytes of keys and values between looks at the memory that is left, and what is left over at least


class Engine:
    """Runs requests in steps of at most `chunk` rows and `slots` sequences, in the order in which they came.

    A step holds one row of each decoding sequence, then as much of the prompts as fits. `executable.run(StepInput)`
    runs it. What a row computes does not depend on the other rows, so this order decides speed, never results.
    Where memory for keys and values is short, the newest sequences wait, and are computed again, until others end.

    With `prefill`, the executable of a program that was compiled after `program` for the same ranges, prompts with
    EXPANDED_ROWS or more tokens left run there, in steps of their own. What it keeps behind the ranges' first
    `program.range_bytes` is given back when a prompt is done.
    """

    def __init__(self, executable, program: Program, *, chunk: int, slots: int = 64, prefill=None):
        self.executable, self.prefill = executable, prefill
        self.chunk = chunk
        self.vocab = program.vocab
        self.closed = False
        self._kept = program.range_bytes
        self._ranges = RangePool(prefill.program.range_bytes if prefill else self._kept)
        self._position_bytes = self._kept / program.context
        self._expanded_bytes = token_bytes(program, prefill.program) if prefill else 0
        self._room = 0.0  # bytes of keys and values that may be written before memory is looked at again
        self._lock = threading.Lock()
        self._condition = threading.Condition(self._lock)
        self._turns: deque[object] = deque()  # its head runs a step; the others wait for that
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._free_slots = list(range(slots))

        self._tokens = np.empty(chunk, np.int32)
        self._positions = np.empty(chunk, np.int32)
        self._slots = np.empty(chunk, np.int32)
        self._addresses = np.zeros(slots, np.uint64)
        self._counting = np.arange(program.context, dtype=np.int32)
        self._logit_row = np.empty(slots, np.int32)
        self._logits = np.empty((slots, program.vocab), np.float32)
        self._sampling = np.zeros(slots, SAMPLING)
        self._sampled = np.empty(slots, np.int32)
        self._logprob = np.empty(slots, np.float32)

    def submit(self, requests: list[Request]) -> None:
        """Queue requests; `wait` runs them. Raises InputError if a prompt cache is in use or the engine is closed."""
        with self._lock:
            self._check_open()
            caches = [request.cache for request in requests if request.cache is not None]
            if any(cache.busy for cache in caches) or len(set(map(id, caches))) < len(caches):
                raise InputError("this prompt cache is in use by another request")
            for cache in caches:
                cache.busy = True
            self._waiting.extend(requests)

    def wait(self, ready: Callable[[], bool]) -> None:
        """Run steps until `ready()`, taking turns with other threads."""
        while not ready():
            with self._turn(ready) as mine:
                if mine:
                    self._step()

    def cancel(self, requests: list[Request]) -> None:
        """End requests early and free what they hold. Never blocks, so that a finalizer may call it."""
        for request in requests:
            request.done = True
        if self._lock.acquire(blocking=False):
            try:
                if not self._turns:  # else the thread whose turn it is releases them
                    self._release_done()
            finally:
                self._lock.release()

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """The logits of every position of int32 [T] tokens, float32 [T, vocab]. Raises InputError without memory."""
        needed = len(tokens) * (4 * self.vocab + self._position_bytes + self._expanded_bytes)
        if needed > ROOM and needed > (there := memory.available()):
            raise InputError(
                f"the logits of {len(tokens)} tokens need {memory.readable(needed)}, {memory.readable(there)} are left"
            )
        out = np.empty((len(tokens), self.vocab), np.float32)
        with self._turn():
            mapping = self._ranges.acquire()
        addresses = np.array([mapping.address], np.uint64)
        slots = np.zeros(self.chunk, np.int32)
        try:
            for begin in range(0, len(tokens), self.chunk):
                rows = self._counting[: min(self.chunk, len(tokens) - begin)]
                end = begin + len(rows)
                expanded = self.prefill is not None and len(rows) >= EXPANDED_ROWS
                with self._turn():
                    (self.prefill if expanded else self.executable).run(
                        StepInput(
                            tokens=tokens[begin:end],
                            positions=self._counting[begin:end],
                            slots=slots[: len(rows)],
                            ranges=addresses,
                            logit_row=rows,
                            logits=out[begin:end],
                            sampling=None,
                            sampled=None,
                            logprob=None,
                        )
                    )
        finally:
            with self._turn():
                self._ranges.release(mapping)
        return out

    def clear(self, cache: PromptCache) -> None:
        """Give the pages of a prompt cache back. Raises InputError if a request uses it."""
        with self._turn():
            if cache.busy:
                raise InputError("this prompt cache is in use by another request")
            if cache.range is not None:
                self._ranges.release(cache.range)
            cache.forget()

    def close(self) -> None:
        """End every request, after the step under way, and unmap the KV ranges."""
        if self.closed:
            return
        with self._turn():
            self.closed = True
            for request in [*self._running, *self._waiting]:
                request.done, request.error = True, InputError("this LLM is closed")
            self._release_done()
            self._ranges.close()

    def _check_open(self) -> None:
        if self.closed:
            raise InputError("this LLM is closed")

    @contextmanager
    def _turn(self, unless: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """The sole right to run a step, first come, first served. False without it: `unless()` came true before."""
        ticket = object()
        mine = False
        self._turns.append(ticket)
        try:
            with self._lock:
                self._condition.wait_for(lambda: unless() or self._turns[0] is ticket)
                mine = not unless()
                if mine:
                    self._check_open()
            yield mine
        finally:
            with self._lock:
                if mine:
                    self._release_done()
                self._turns.remove(ticket)
                self._condition.notify_all()

    def _step(self) -> None:
        self._admit()
        if self.prefill is not None:
            self._run(self.prefill, expanded=True)
        self._run(self.executable, expanded=False)

    def _run(self, executable, expanded: bool) -> None:
        """Run a step of the rows that are due, in expanded form or not."""
        rows, wanting = self._fill(expanded)
        while not self._has_room(needed := self._step_bytes(expanded)):
            self._make_room()
            rows, wanting = self._fill(expanded)
        if rows == 0:
            return
        self._room -= needed
        m = len(wanting)
        step = StepInput(
            tokens=self._tokens[:rows],
            positions=self._positions[:rows],
            slots=self._slots[:rows],
            ranges=self._addresses,
            logit_row=self._logit_row[:m],
            logits=self._logits[:m],
            sampling=self._sampling[:m],
            sampled=self._sampled[:m],
            logprob=self._logprob[:m],
        )
        try:
            executable.run(step)
        except Exception as error:
            for request in self._running:
                request.done, request.error = True, error
            return
        sampled, logprobs = self._sampled[:m].tolist(), self._logprob[:m].tolist()
        for request, token, logprob in zip(wanting, sampled, logprobs, strict=True):
            if not request.done:
                request.accept(token, logprob)
        for request in self._running:  # last: rows that an interrupt keeps from being counted are computed again
            request.cached += request.rows
            if expanded and request.rows:
                request.expanded = request.cached
        if expanded:
            for request in wanting:
                self._forget_expansion(request)

    def _admit(self) -> None:
        """Give waiting requests a slot and a KV range, as long as there is memory for their prompts."""
        while self._waiting and self._free_slots:
            fits = self._has_room(self._prompt_bytes(self._waiting[0], self._waiting[0].cached_prefix()))
            if not fits and self._running:
                return
            request = self._waiting.popleft()
            self._running.append(request)
            if not fits:
                self._fail_for_room(request)
                continue
            try:
                request.range = (request.cache and request.cache.range) or self._ranges.acquire()
            except InputError as error:  # no address space
                request.done, request.error = True, error
                continue
            request.slot = self._free_slots.pop()
            self._addresses[request.slot] = request.range.address
            request.begin()

    def _step_bytes(self, expanded: bool) -> float:
        """Bytes of keys and values that the step under way writes for the first time."""
        needed = sum(request.rows for request in self._running) * self._position_bytes
        if expanded:
            due = (one.cached + one.rows - one.expanded for one in self._running if one.rows)
            needed += sum(due) * self._expanded_bytes
        return needed

    def _prompt_bytes(self, request: Request, done: int) -> float:
        """Bytes of keys and values that the rest of a prompt, or of what is known of a sequence, will write."""
        left = request.length - done
        expanded = request.length * self._expanded_bytes if left >= EXPANDED_ROWS else 0
        return left * self._position_bytes + expanded

    def _has_room(self, needed: float) -> bool:
        """Whether so many more bytes of keys and values can be written."""
        if needed > self._room:
            if memory.available() < needed + ROOM:
                return False
            self._room = needed + ROOM
        return True

    def _make_room(self) -> None:
        """Send the newest sequence back to wait, without what was computed of it; one that is alone fails."""
        running = [request for request in self._running if not request.done]
        if len(running) < 2:
            for request in running:
                self._fail_for_room(request)
            return
        request = running[-1]
        self._running.remove(request)
        self._waiting.appendleft(request)
        self._free_slots.append(request.slot)
        assert request.range is not None
        self._ranges.release(request.range)
        if request.cache is not None:
            request.cache.forget()
        request.range, request.slot, request.cached, request.expanded = None, -1, 0, 0

    def _fail_for_room(self, request: Request) -> None:
        done, there = max(request.cached, request.cached_prefix()), memory.available()
        needed = self._prompt_bytes(request, done)
        request.error = InputError(
            f"the keys and values of {request.length - done} tokens after {done} need {memory.readable(needed)} "
            f"of memory and {memory.readable(ROOM)} must stay free, {memory.readable(there)} are left"
        )
        request.done = True

    def _fill(self, expanded: bool) -> tuple[int, list[Request]]:
        """Lay the next step's rows out: those to be expanded, or the others.

        Returns their number and the requests that get a token from it.
        """
        rows = 0
        wanting: list[Request] = []
        for request in self._running:
            begin = request.cached
            left = 0 if request.done else request.length - begin
            n = min(left, self.chunk - rows)
            fits = n >= EXPANDED_ROWS if expanded else self.prefill is None or left < EXPANDED_ROWS
            request.rows = n = n if fits else 0
            if n == 0:
                continue
            end = rows + n
            self._tokens[rows:end] = request.tokens[begin : begin + n]
            self._positions[rows:end] = self._counting[begin : begin + n]
            self._slots[rows:end] = request.slot
            if begin + n == request.length:
                request.sampling["counter"] = request.sampling["history_len"] = request.length
                self._logit_row[len(wanting)] = end - 1
                self._sampling[len(wanting)] = request.sampling
                wanting.append(request)
            rows = end
        return rows, wanting

    def _forget_expansion(self, request: Request) -> None:
        if self.prefill is not None and request.range is not None:
            request.range.clear(self._kept)
            request.expanded = 0

    def _release_done(self) -> None:
        """Free what ended requests hold. Only with the turn, or when nobody has it."""
        ended = [request for request in [*self._running, *self._waiting] if request.done]
        if not ended:
            return
        self._running = [request for request in self._running if not request.done]
        self._waiting = deque(request for request in self._waiting if not request.done)
        for request in ended:
            if request.slot >= 0:
                self._free_slots.append(request.slot)
            if request.cache is not None:
                request.cache.busy = False
                if request.range is not None:
                    self._forget_expansion(request)
                    request.cache.range = request.range
                    request.cache.tokens = request.tokens[: request.cached].copy()
            elif request.range is not None:
                self._ranges.release(request.range)
            request.range, request.slot = None, -1
