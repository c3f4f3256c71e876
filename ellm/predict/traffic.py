"""How long requests wait: the policy that serves them, run in simulated time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ellm.serving.policy import Policy, Terms


@dataclass(eq=False)
class Request:
    """A prompt of so many tokens that comes at a moment, and the moments of the tokens of its answer."""

    terms: Terms
    prompt: int
    output: int  # tokens of the answer, at least 1
    cached: int = 0
    tokens: list[float] = field(default_factory=list)
    begun: float = math.nan  # when it entered, the last time
    preemptions: int = 0

    @property
    def length(self) -> int:
        """Its known tokens."""
        return self.prompt + len(self.tokens)

    @property
    def left(self) -> int:
        """Those that are not computed."""
        return self.length - self.cached

    @property
    def done(self) -> bool:
        """Whether all of its answer is there."""
        return len(self.tokens) == self.output

    @property
    def first(self) -> float:
        """Seconds from its arrival to its first token."""
        return self.tokens[0] - self.terms.arrived

    @property
    def gaps(self) -> list[float]:
        """Seconds between its tokens."""
        return [after - before for before, after in zip(self.tokens, self.tokens[1:], strict=False)]


Share = tuple[int, int]
"""Where the rows of a request in a step begin, and how many they are."""


class Traffic:
    """Serves requests as an engine does: in `slots`, with memory for `positions`, by steps that take `seconds`."""

    def __init__(
        self,
        policy: Policy,
        seconds: Callable[[list[Share]], float],
        *,
        slots: int = 64,
        positions: float = math.inf,
    ):
        self.policy, self.slots, self.positions = policy, slots, positions
        self.now = self.busy = 0.0  # seconds
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self._seconds = seconds

    def serve(self, requests: Iterable[Request]) -> None:
        """Until all have been answered. Each must fit into the memory alone."""
        coming = sorted(requests, key=lambda one: one.terms.arrived)
        while coming or self.waiting or self.running:
            if not self.waiting and not self.running:
                self.now = max(self.now, coming[0].terms.arrived)
            while coming and coming[0].terms.arrived <= self.now:
                self.waiting.append(coming.pop(0))
            self.step()

    def step(self) -> list[tuple[Request, int]]:
        """Run one step; the rows of each request in it."""
        limit = self.policy.limit([*self.running, *self.waiting])
        for one in self.policy.entering(self.running, self.waiting, limit):
            if not self._enter(one):
                break
        while sum(one.length for one in self.running) > self.positions:
            self._send_back(self.policy.victim(self.running))
        dealt = list(self.policy.deal(self.running, limit))
        shares = [(one.cached, rows) for one, rows in dealt]
        seconds = self._seconds(shares)
        attended = sum(rows * (begin + rows) for begin, rows in shares)
        decoding = all(one.left == 1 for one, _ in dealt)
        self.policy.times.measured(sum(rows for _, rows in shares), attended, seconds, decoding)
        self.now += seconds
        self.busy += seconds
        for one, rows in dealt:
            one.cached += rows
            if not one.left:
                one.tokens.append(self.now)
        self.running = [one for one in self.running if not one.done]
        return dealt

    def _enter(self, one: Request) -> bool:
        while len(self.running) == self.slots or self._needed(one) > self.positions:
            victim = self.policy.victim(self.running, one.terms.priority)
            if victim is None:
                return False
            self._send_back(victim)
        one.begun = self.now
        self.running.append(one)
        self.waiting.remove(one)
        return True

    def _needed(self, one: Request) -> int:
        return one.length + sum(other.length for other in self.running)

    def _send_back(self, one: Request | None) -> None:
        assert one is not None
        self.running.remove(one)
        self.waiting.append(one)
        one.cached = 0
        one.preemptions += 1


def percentiles(values: Sequence[float], *which: float) -> list[float]:
    """The smallest values that so many percent of all do not exceed; NaN if there are none."""
    ordered = sorted(values)
    return [ordered[max(0, math.ceil(len(ordered) * one / 100) - 1)] if ordered else math.nan for one in which]
