"""One step as its caller gives it: a flat list of rows, the rows of one sequence one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ellm.kernels.contract import SAMPLING
from ellm.scheduler.program import Program

Numbers = Sequence[int] | np.ndarray


@dataclass
class StepInput:
    """The rows of a step and where its results go. Arrays are kept until the step has ended. Made by `of`."""

    tokens: np.ndarray  # int32 [rows]
    positions: np.ndarray  # int32 [rows]
    slots: np.ndarray  # int32 [rows]: index of the row's sequence in ranges
    ranges: np.ndarray  # uint64 [slots]: addresses of the sequences' KV ranges
    logit_row: np.ndarray  # int32 [logit rows]: rows that want logits, ascending
    logits: np.ndarray  # float32 [logit rows, vocab]: written
    sampling: np.ndarray | None = None  # SAMPLING [logit rows]; None: nothing is sampled
    sampled: np.ndarray | None = None  # int32 [logit rows]: written
    logprob: np.ndarray | None = None  # float32 [logit rows]: written
    blocks: np.ndarray | None = None  # uint64 [slots, context_blocks]: of its positions; None: all in its own range
    input_rows: np.ndarray | None = None  # float32 [rows, width]: what the program reads of each row beside its token

    @classmethod
    def of(
        cls,
        positions: Numbers,
        tokens: Numbers | None = None,
        *,
        slots: Numbers | None = None,
        ranges: Numbers | None = None,
        blocks: np.ndarray | None = None,
        logit_row: Numbers = (),
        logits: np.ndarray | None = None,
        vocab: int = 1,
        sampling: np.ndarray | None = None,
        sampled: np.ndarray | None = None,
        logprob: np.ndarray | None = None,
        input_rows: np.ndarray | None = None,
    ) -> StepInput:
        """A step of rows at these positions; arrays of the right type are taken as they are.

        By default all tokens are 0, all rows are of one sequence, no range has an address, no row wants logits, and
        there is none that is sampled. Results for which no array is given get one: logits [logit rows, vocab] and, with
        `sampling`, sampled and logprob.
        """
        rows, wanted = len(positions), len(logit_row)
        slots = np.zeros(rows, np.int32) if slots is None else np.asarray(slots, np.int32)
        if ranges is None:
            ranges = np.zeros(int(slots.max(initial=-1)) + 1, np.uint64)
        if sampling is not None:
            assert sampling.dtype == SAMPLING
            sampled = np.empty(wanted, np.int32) if sampled is None else sampled
            logprob = np.empty(wanted, np.float32) if logprob is None else logprob
        return cls(
            tokens=np.zeros(rows, np.int32) if tokens is None else np.asarray(tokens, np.int32),
            positions=np.asarray(positions, np.int32),
            slots=slots,
            ranges=np.asarray(ranges, np.uint64),
            blocks=blocks,
            logit_row=np.asarray(logit_row, np.int32),
            logits=np.empty((wanted, vocab), np.float32) if logits is None else logits,
            sampling=sampling,
            sampled=sampled,
            logprob=logprob,
            input_rows=input_rows,
        )


@dataclass
class Successor:
    """A step that begins as soon as another one has ended: row i has the token that was drawn of that one's row i.

    All rows of both are drawn. Its tokens are written to `inputs`, and to the end of the histories in its sampling.
    """

    inputs: StepInput
    ends: np.ndarray  # int32 [rows, n]: it does not begin if a row has drawn one of these


class Executable(Protocol):
    """What runs the steps of a program: a `Pool` that has loaded it, or what stands in for that."""

    @property
    def program(self) -> Program:
        """Whose steps they are."""

    def run(self, inputs: StepInput, meanwhile: Callable[[], Successor | None] | None = None) -> None:
        """Run one step and return when it has ended. `meanwhile` is called once it has begun.

        A step that it returns may follow at once, and `meanwhile` is called again if it has begun.
        Raises ValueError for rows that do not fit the program, StepError if a kernel failed in the last step.
        """

    def hold(self) -> None:
        """Have the step that is under way be the last of its run, unless another one has begun. Any thread may."""

    @property
    def experts_woken(self) -> int:
        """How often an expert had rows in a step, of all steps so far. Any thread may ask."""

    def hidden(self, rows: Numbers) -> np.ndarray:
        """The final hidden state, after its norm, of these rows of the last step: float32 [n, width].

        Raises ValueError if there was no such row.
        """
