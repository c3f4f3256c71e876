"""The arrays of a step, made once: where the engine lays the rows out and finds what was drawn."""

from __future__ import annotations

import numpy as np

from ellm.kernels.contract import SAMPLING, SPLIT, TOKEN_NUMBER
from ellm.scheduler import StepInput
from ellm.serving.batcher import Share
from ellm.serving.masks import Masks, Wanted, addresses
from ellm.serving.sampling import MOST_LIKELY
from ellm.serving.sequence import Sequence
from ellm.serving.speculation import MOST_ROWS
from ellm.system import memory

MORE_LOGITS = 128 << 20  # bytes for the logits of rows beyond one a sequence, which few steps touch


class Staging:
    """Room for `chunk` rows of `slots` sequences, of each of which one wants logits, and `more` of all others.

    One `beside` another has the same memory for logits, which are of no use once a step has ended.
    """

    def __init__(self, chunk: int, slots: int, context: int, vocab: int, beside: Staging | None = None):
        self._tokens = np.empty(chunk, np.int32)
        self._positions = np.empty(chunk, np.int32)
        self._slots = np.empty(chunk, np.int32)
        self._addresses = np.zeros(slots, np.uint64)
        self._blocks = np.zeros((slots, -(-context // SPLIT)), np.uint64)
        self._rows = np.arange(chunk, dtype=np.int32)
        self._counting = np.arange(context + 1, dtype=np.int32)
        self.more = max(MOST_ROWS, min(chunk, MORE_LOGITS // (4 * vocab)))
        drawn = slots + self.more
        self._logit_row = np.empty(drawn, np.int32)
        self._logits_memory: memory.Mapping = (
            beside._logits_memory if beside else memory.Mapping(4 * drawn * vocab, "the logits of a step")
        )
        self._logits = self._logits_memory.array[: 4 * drawn * vocab].view(np.float32).reshape(drawn, vocab)
        self._sampling = np.zeros(drawn, SAMPLING)
        self._counter, self._history_len = self._sampling["counter"], self._sampling["history_len"]
        self._sampled = np.empty(drawn, np.int32)
        self._logprob = np.empty(drawn, np.float32)
        self.top = np.empty((drawn, MOST_LIKELY), TOKEN_NUMBER)  # written by the step: its likeliest tokens, row by row
        self._top_addresses = addresses(self.top)
        self.masks = Masks(self._sampling, vocab)

    def forget(self) -> None:
        """Give the memory of the logits back until the next step. None may be running."""
        self._logits_memory.clear()

    def fill(self, shares: list[Share]) -> StepInput:
        """The step of these shares; what is drawn is in the order of those that draw, row by row.

        A token that is still to be drawn is left to the step before. Its masks are found out from `masks.begin` on.
        """
        end = drawn = 0
        for share in shares:
            sequence, begin, end = share.sequence, end, end + share.rows
            assert sequence.range is not None
            if share.drafts:  # behind what is known: where the sampling of their rows looks for earlier tokens
                sequence.tokens[share.known : share.end] = share.drafts
                sequence.drafted += len(share.drafts)
            self._tokens[begin:end] = 0 if share.known > sequence.length else sequence.tokens[share.begin : share.end]
            self._positions[begin:end] = self._counting[share.begin : share.end]
            self._slots[begin:end] = sequence.slot
            self._addresses[sequence.slot] = sequence.range.address
            self._blocks[sequence.slot] = sequence.blocks
            if share.scored:
                rows, drawn = slice(drawn, drawn + share.scored), drawn + share.scored
                self._place(sequence, rows, begin, share.begin + 1)
                next_tokens = sequence.tokens.ctypes.data + 4 * (share.begin + 1)
                self._sampling["given"][rows] = next_tokens + 4 * np.arange(share.scored, dtype=np.uint64)
            if share.draws:
                rows, drawn = slice(drawn, drawn + share.drawn), drawn + share.drawn
                self._place(sequence, rows, end - share.drawn, share.known)
                if sequence.constraint is not None:
                    self.masks.want(Wanted(sequence.constraint, share.drafts, rows, sequence.kept_biases))
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

    def go_on(self, inputs: StepInput) -> StepInput:
        """The step two behind the last one here, whose rows were plain and decoding ones, as are those of this one."""
        drawn = slice(len(inputs.logit_row))
        inputs.positions += 2
        self._counter[drawn] += 2
        self._history_len[drawn] += 2
        return inputs

    def _place(self, sequence: Sequence, rows: slice, row: int, known: int) -> None:
        """Have the tokens behind `known` ones drawn from the step's rows from `row` on."""
        count = rows.stop - rows.start
        self._logit_row[rows] = self._rows[row : row + count]
        for drawn in range(rows.start, rows.stop):  # a record is copied whole, a slice of them field by field
            self._sampling[drawn] = sequence.sampling
        counted = self._counting[known : known + count]
        self._counter[rows] = self._history_len[rows] = counted
        if not sequence.plain:
            self._sampling["top"][rows] = self._top_addresses[rows]
            biases = np.where(counted < sequence.least, len(sequence.biases), sequence.kept_biases)
            self._sampling["bias_len"][rows] = biases
