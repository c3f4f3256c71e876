"""Teacher-forced logits, in steps of their own."""

from __future__ import annotations

import numpy as np

from ellm.scheduler import StepInput
from ellm.scheduler.program import chosen
from ellm.serving.engine import Engine
from ellm.serving.policy import Terms
from ellm.serving.ranges import Range


class Scoring:
    """The logits of the positions of int32 [T] tokens from `first` on, of which the caller holds `held` at a time.

    Raises InputError without memory. For the thread that runs the engine's steps.
    """

    def __init__(self, engine: Engine, tokens: np.ndarray, first: int, held: int):
        engine.room.check_logits(len(tokens), held, engine.program.vocab)
        self._engine, self._tokens, self._first = engine, tokens, first
        self._positions = np.arange(len(tokens), dtype=np.int32)
        self._range: Range | None = None
        self.done = 0  # positions that were run
        self.terms = Terms()

    @property
    def cached(self) -> int:
        """The same, as the policy asks."""
        return self.done

    @property
    def left(self) -> int:
        """Positions that are still to be run."""
        return len(self._tokens) - self.done

    def step(self, out: np.ndarray | None = None) -> np.ndarray:
        """Run the next rows and return the logits of its positions that are wanted, float32 [n, vocab].

        They are written to the rows of `out`, float32 [T - first, vocab], if it is given.
        """
        if self._range is None:
            self._range = self._engine.room.acquire_for(len(self._tokens))
        begin, end = self.done, min(self.done + self._engine.rows_for(self), len(self._tokens))
        rows, wanted = slice(begin, end), slice(max(begin - self._first, 0), max(end - self._first, 0))
        count = wanted.stop - wanted.start
        logits = np.empty((count, self._engine.program.vocab), np.float32) if out is None else out[wanted]
        chosen(self._engine.executables, end - begin).run(
            StepInput.of(
                self._positions[rows],
                self._tokens[rows],
                ranges=[self._range.address],
                logit_row=self._positions[end - begin - count : end - begin],
                logits=logits,
            )
        )
        self.done = end
        return logits

    def close(self) -> None:
        """Give the range back."""
        if self._range is not None:
            self._engine.room.ranges.release(self._range)
