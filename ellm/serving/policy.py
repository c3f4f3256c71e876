"""Who goes first: which requests enter, how many rows of each a step has, who gives way, and who comes too late.

It has no clock, no thread and no memory of requests: times come in, choices come out, so that tests and `ellm plan`
drive it with simulated ones. It decides speed, never results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ellm.serving.bounds import is_number
from ellm.serving.step_times import StepTimes
from ellm.system.errors import InputError

PRIORITIES = ("interactive", "batch")
MOST_PARTIAL = 2  # prompts of a class that are begun and not done: each holds memory for what nobody can read yet
SLOWDOWN = 2.0  # times a step of decoding sequences alone that a step may take for the prompts in it
LEAST_ROWS = 16  # of prompts in a step, whatever the target is


@dataclass(frozen=True)
class Terms:
    """What a request asks for. Times are in seconds of one clock, whichever that is."""

    priority: int = 0  # index of PRIORITIES
    paced: bool = False  # somebody waits for each of its tokens: not of a batch
    arrived: float = 0.0
    deadline: float = math.inf  # after which its answer is of no use

    @classmethod
    def of(cls, priority: str, deadline: float | None, now: float, paced: bool = False) -> Terms:
        """Of a request that comes now; `deadline` is in seconds from now. Raises InputError if one is not valid."""
        if priority not in PRIORITIES:
            raise InputError(f"priority must be {' or '.join(PRIORITIES)}, not {priority!r}")
        paced = paced and priority != "batch"
        if deadline is None:
            return cls(PRIORITIES.index(priority), paced, now)
        if not is_number(deadline) or not deadline > 0:
            raise InputError(f"deadline must be a number of seconds above 0, or None, not {deadline!r}")
        return cls(PRIORITIES.index(priority), paced, now, now + deadline)


class Request(Protocol):
    """What the policy knows of a request."""

    @property
    def terms(self) -> Terms:
        """What it asks for."""

    @property
    def cached(self) -> int:
        """Its tokens that are computed."""

    @property
    def left(self) -> int:
        """Its known tokens that are not; one if it is decoding."""


R = TypeVar("R", bound=Request)


class Policy:
    """Decides for steps of at most `chunk` rows, which are counted in units of `unit`.

    `target` is the longest that a step should take while somebody waits for each token, in seconds; None: twice a step
    without prompts, or one unit.
    """

    def __init__(self, chunk: int, unit: int, target: float | None = None):
        self.chunk, self.unit, self.target = chunk, unit, target
        self.times = StepTimes(unit)

    def limit(self, requests: Collection[Request]) -> int:
        """How many rows a step of such requests should have at most."""
        decoding = [one for one in requests if one.left == 1]
        if len(decoding) == len(requests) or not any(one.terms.paced for one in decoding):
            return self.chunk
        context = max((one.cached for one in requests if one.left > 1), default=0)
        alone = self.times.decoding(len(decoding))
        if self.target is not None:
            more = self.times.rows_within(self.target - alone, context)
            return min(self.chunk, len(decoding) + max(LEAST_ROWS, more))
        units = len(decoding) // self.unit + 1
        more = self.times.rows_within((SLOWDOWN - 1) * alone, context)
        return min(self.chunk, max(units, (len(decoding) + more) // self.unit) * self.unit)

    def deal(self, requests: Collection[R], rows: int) -> Iterator[tuple[R, int]]:
        """How many rows each gets of a step of so many: one if it is decoding, then prompts one after the other."""
        for one in sorted(requests, key=self._urgency):
            if rows > 0:
                yield one, min(one.left, rows)
                rows -= one.left

    def entering(
        self, running: Collection[R], waiting: Iterable[R], rows: int, ready: Callable[[R], bool] = lambda one: True
    ) -> Iterator[R]:
        """Those who wait and are ready that a step of so many rows has some for, the first ones first.

        The caller lets each in before it asks for the next, or stops asking. One whose prompt would not be done with
        the step does not enter while MOST_PARTIAL of its class are begun.
        """
        partial = [sum(one.left > 1 and one.terms.priority == of for one in running) for of in range(len(PRIORITIES))]
        rows -= sum(one.left == 1 for one in running)
        begun = {id(one) for one in running}
        prompts = [one for one in running if one.left > 1]
        for one in sorted([*prompts, *waiting], key=self._urgency):
            if rows <= 0:
                return
            if id(one) not in begun:
                if (one.left > rows and partial[one.terms.priority] >= MOST_PARTIAL) or not ready(one):
                    continue
                yield one
                partial[one.terms.priority] += one.left > rows
            rows -= one.left

    def victim(self, running: Iterable[R], above: int = -1) -> R | None:
        """Who gives way: the newest of the lowest class, if that is below class `above`; None: nobody."""
        lower = [one for one in running if one.terms.priority > above]
        return max(reversed(lower), key=lambda one: (one.terms.priority, one.terms.arrived), default=None)

    def late(self, one: Request, now: float) -> bool:
        """Whether not even its next token can come in time."""
        deadline = one.terms.deadline
        return deadline < math.inf and now + (one.left > 1) * one.left * self.times.row_seconds > deadline

    def _urgency(self, one: Request) -> tuple[bool, int, float]:
        """Decoding ones, then by class, then by what remains minus how long it has waited, which only times shift."""
        terms, remaining = one.terms, one.left * self.times.row_seconds
        return one.left > 1, terms.priority, remaining + terms.arrived
