"""Steps of a probe program that follow one another: what one draws is what its caller had put there before."""

import numpy as np

from ellm.kernels.contract import SAMPLING
from ellm.scheduler import StepInput, Successor

NO_TOKEN = -1


class Chain:
    """Runs up to `most` steps of `rows` rows in one run; step n draws the tokens `drawn(n)`.

    `tokens` are those that the rows of each step had in the end, `histories` what sampling had of each row. `before` is
    called while each step runs, with its number.
    """

    def __init__(self, most, rows=1, ends=(), before=lambda number: None):
        self.most, self.rows, self.before = most, rows, before
        self.ends = np.array([list(ends) or [NO_TOKEN]] * rows, np.int32)
        self.histories = np.full((rows, most + 1), NO_TOKEN, np.int32)
        self.inputs, self.called = [], 0

    def drawn(self, number):
        return (10 * number + np.arange(self.rows)) % 100

    def step(self, number):
        """The input of a step, whose tokens are still to come unless it is the first."""
        sampling = np.zeros(self.rows, SAMPLING)
        sampling["history"] = self.histories.ctypes.data + 4 * (self.most + 1) * np.arange(self.rows, dtype=np.uint64)
        sampling["history_len"] = number + 1
        every = np.arange(self.rows, dtype=np.int32)
        step = StepInput.of(
            np.full(self.rows, number),
            np.zeros(self.rows, np.int32),
            slots=every,
            logit_row=every,
            sampling=sampling,
            sampled=self.drawn(number).astype(np.int32),
        )
        self.inputs.append(step)
        return step

    def meanwhile(self):
        self.called += 1
        self.before(self.called)
        return Successor(self.step(self.called), self.ends) if self.called < self.most else None

    def run(self, executable):
        executable.run(self.step(0), self.meanwhile)

    @property
    def tokens(self):
        return [step.tokens.tolist() for step in self.inputs[: self.called]]
