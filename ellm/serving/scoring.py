"""Teacher-forced logits, a chunk a step."""

from __future__ import annotations

import numpy as np

from ellm.scheduler import StepInput
from ellm.scheduler.program import chosen
from ellm.serving.engine import Engine


class Scoring:
    """The logits of every position of int32 [T] tokens, float32 [T, vocab]. Raises InputError without memory."""

    def __init__(self, engine: Engine, tokens: np.ndarray):
        engine.room.check_logits(len(tokens), engine.program.vocab)
        engine.release()
        self._engine, self._tokens = engine, tokens
        self._positions = np.arange(len(tokens), dtype=np.int32)
        self._range = engine.room.ranges.acquire()
        self._addresses = np.array([self._range.address], np.uint64)
        self.logits = np.empty((len(tokens), engine.program.vocab), np.float32)
        self.done = 0  # positions whose logits are there

    def step(self) -> None:
        """Run the next chunk."""
        rows = slice(self.done, min(self.done + self._engine.batcher.chunk, len(self._tokens)))
        count = rows.stop - rows.start
        chosen(self._engine.executables, count).run(
            StepInput.of(
                self._positions[rows],
                self._tokens[rows],
                ranges=self._addresses,
                logit_row=self._positions[:count],
                logits=self.logits[rows],
            )
        )
        self.done = rows.stop

    def close(self) -> None:
        """Give the range back."""
        self._engine.room.ranges.release(self._range)
