"""The arrays of a step, made once: where the engine lays the rows out and finds what was drawn."""

from __future__ import annotations

import numpy as np

from ellm.kernels.contract import SAMPLING
from ellm.scheduler import StepInput
from ellm.serving.batcher import Share


class Staging:
    """Room for `chunk` rows of `slots` sequences."""

    def __init__(self, chunk: int, slots: int, context: int, vocab: int):
        self._tokens = np.empty(chunk, np.int32)
        self._positions = np.empty(chunk, np.int32)
        self._slots = np.empty(chunk, np.int32)
        self._addresses = np.zeros(slots, np.uint64)
        self._counting = np.arange(context, dtype=np.int32)
        self._logit_row = np.empty(slots, np.int32)
        self._logits = np.empty((slots, vocab), np.float32)
        self._sampling = np.zeros(slots, SAMPLING)
        self._sampled = np.empty(slots, np.int32)
        self._logprob = np.empty(slots, np.float32)

    def fill(self, shares: list[Share]) -> StepInput:
        """The step of these shares; what is drawn is in the order of those that draw."""
        end = drawn = 0
        for share in shares:
            sequence, begin, end = share.sequence, end, end + share.rows
            assert sequence.range is not None
            self._tokens[begin:end] = sequence.tokens[share.begin : share.end]
            self._positions[begin:end] = self._counting[share.begin : share.end]
            self._slots[begin:end] = sequence.slot
            self._addresses[sequence.slot] = sequence.range.address
            if share.draws:
                self._logit_row[drawn] = end - 1
                self._sampling[drawn] = sequence.sampling
                self._sampling[drawn]["counter"] = self._sampling[drawn]["history_len"] = share.end
                drawn += 1
        return StepInput.of(
            self._positions[:end],
            self._tokens[:end],
            slots=self._slots[:end],
            ranges=self._addresses,
            logit_row=self._logit_row[:drawn],
            logits=self._logits[:drawn],
            sampling=self._sampling[:drawn],
            sampled=self._sampled[:drawn],
            logprob=self._logprob[:drawn],
        )
