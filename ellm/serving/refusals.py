"""Requests that cannot be served now, though nothing is wrong with them."""

from __future__ import annotations

import math

from ellm.serving.sequence import Sequence
from ellm.system.errors import InputError


class Busy(InputError):
    """More tokens wait than may. `backlog`: how many; `retry_after`: whole seconds after which they should be done."""

    def __init__(self, backlog: int, more: int, most: int, seconds: float):
        self.backlog, self.retry_after = backlog, max(1, math.ceil(seconds))
        super().__init__(
            f"the queue is full: {backlog} tokens of prompts wait, {more} more would exceed the {most} that may; "
            f"try again in {self.retry_after} s"
        )


class Late(InputError):
    """A request that could not be answered by its deadline."""


def late(sequence: Sequence, now: float) -> Late:
    """What to say of a sequence that is too late."""
    terms, prompt = sequence.terms, sequence.prompt_length
    done, answered = min(sequence.cached, prompt), sequence.length - prompt
    return Late(
        f"deadline of {terms.deadline - terms.arrived:.3g} s: missed after {now - terms.arrived:.3g} s with "
        f"{done} of {prompt} tokens of the prompt computed and {answered} answered"
    )
