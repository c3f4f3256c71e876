"""What is queued with an engine: a sequence, and who is told of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from ellm.serving.output import Metrics
from ellm.serving.sequence import Sequence


class Entry:
    """A sequence that steps compute, and what is made of it.

    `notify` is called when there is more of that, and once when this has `ended`: nothing is added then, and what the
    sequence held is free.
    """

    ended = False
    notify: Callable[[], object] | None = None

    def __init__(self, sequence: Sequence):
        self.sequence, self.metrics = sequence, Metrics()
        self._begun = 0.0

    def begin(self) -> None:
        """The sequence has a range: its first step is next."""
        self.metrics.cached_tokens = self.sequence.first_hit
        self._begun = time.perf_counter()

    @property
    def may_end(self) -> bool:
        """Whether `read` may end the sequence, so that it is called before the next step, not while that runs."""
        return True

    def read(self) -> bool:
        """Take what a step computed, and end the sequence if that is all; whether there is more to `tell` of."""
        raise NotImplementedError

    def end(self) -> None:
        """Nothing comes any more."""
        self.ended = True
        self.tell()

    def tell(self) -> None:
        """Notify who waits."""
        if self.notify is not None:
            try:
                self.notify()
            except Exception as error:  # nobody would hear of what follows
                self.notify = None
                self.sequence.fail(error)
