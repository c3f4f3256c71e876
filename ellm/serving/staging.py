"""The arrays of a step, made once: where the engine lays the rows out and finds what was drawn."""

from __future__ import annotations

import numpy as np

from ellm.kernels.contract import SAMPLING, SPLIT
from ellm.scheduler import StepInput
from ellm.serving.batcher import Share
from ellm.serving.speculation import MOST_ROWS


class Staging:
    """Room for `chunk` rows of `slots` sequences."""

    def __init__(self, chunk: int, slots: int, context: int, vocab: int):
        self._tokens = np.empty(chunk, np.int32)
        self._positions = np.empty(chunk, np.int32)
        self._slots = np.empty(chunk, np.int32)
        self._addresses = np.zeros(slots, np.uint64)
        self._blocks = np.zeros((slots, -(-context // SPLIT)), np.uint64)
        self._rows = np.arange(chunk, dtype=np.int32)
        self._counting = np.arange(context + 1, dtype=np.int32)
        drawn = max(slots, MOST_ROWS)
        self._logit_row = np.empty(drawn, np.int32)
        self._logits = np.empty((drawn, vocab), np.float32)
        self._sampling = np.zeros(drawn, SAMPLING)
        self._sampled = np.empty(drawn, np.int32)
        self._logprob = np.empty(drawn, np.float32)

    def fill(self, shares: list[Share]) -> StepInput:
        """The step of these shares; what is drawn is in the order of those that draw, row by row."""
        end = drawn = 0
        for share in shares:
            sequence, begin, end = share.sequence, end, end + share.rows
            assert sequence.range is not None
            if share.drafts:  # behind what is known: where the sampling of their rows looks for earlier tokens
                sequence.tokens[share.known : share.end] = share.drafts
                sequence.drafted += len(share.drafts)
            self._tokens[begin:end] = sequence.tokens[share.begin : share.end]
            self._positions[begin:end] = self._counting[share.begin : share.end]
            self._slots[begin:end] = sequence.slot
            self._addresses[sequence.slot] = sequence.range.address
            self._blocks[sequence.slot] = sequence.blocks
            if share.draws:
                first, drawn = drawn, drawn + share.drawn
                self._logit_row[first:drawn] = self._rows[end - share.drawn : end]
                self._sampling[first:drawn] = sequence.sampling
                counted = self._counting[share.known : share.end + 1]
                self._sampling["counter"][first:drawn] = self._sampling["history_len"][first:drawn] = counted
        return StepInput.of(
            self._positions[:end],
            self._tokens[:end],
            slots=self._slots[:end],
            ranges=self._addresses,
            blocks=self._blocks,
            logit_row=self._logit_row[:drawn],
            logits=self._logits[:drawn],
            sampling=self._sampling[:drawn],
            sampled=self._sampled[:drawn],
            logprob=self._logprob[:drawn],
        )
