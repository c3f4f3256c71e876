"""What the rows of constrained sequences may draw, found out while the step runs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ellm.scheduler.tables import set_ready
from ellm.serving.constraint import ALLOWED, ENDED, GIVEN, Constraint


@dataclass(frozen=True)
class Wanted:
    """Rows of a sequence in the sampling of a step, and the drafts behind the first of them."""

    constraint: Constraint
    drafts: Sequence[int]
    rows: slice
    kept_biases: int  # where only the tokens that end the answer are left: what forbids these is not among the biases


class Masks:
    """Fills in the records of `sampling`, SAMPLING [rows], in a thread of its own.

    A mask depends on what was drawn before the step, and is needed at its end: kernels wait for the `ready` of a row.
    """

    def __init__(self, sampling: np.ndarray, vocab: int):
        rows = len(sampling)
        self._sampling = sampling
        self._masks = np.empty((rows, -(-vocab // 32)), np.uint32)
        self._given, self._ready = np.empty(rows, np.int32), np.zeros(rows, np.int32)
        self._mask_at, self._given_at, self._ready_at = map(addresses, (self._masks, self._given, self._ready))
        self._wanted: list[Wanted] = []
        self._thread: ThreadPoolExecutor | None = None
        self._running: Future[None] | None = None

    def want(self, wanted: Wanted) -> None:
        """Have the step that comes wait for these rows."""
        self._ready[wanted.rows] = 0
        self._sampling["ready"][wanted.rows] = self._ready_at[wanted.rows]
        self._wanted.append(wanted)

    def begin(self) -> None:
        """Find out what was wanted, beside whatever comes next."""
        if self._wanted:
            self._thread = self._thread or ThreadPoolExecutor(1, "ellm-masks")
            self._running, self._wanted = self._thread.submit(self._run, self._wanted), []

    def wait(self) -> None:
        """Until nothing is under way, so that constraints can be used."""
        if self._running is not None:
            self._running.result()
            self._running = None

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown()

    def _run(self, wanted: list[Wanted]) -> None:
        for one in wanted:
            try:
                self._lay_out(one)
            except Exception as error:  # of one request, which ends with it
                one.constraint.fail(error)
            finally:
                set_ready(self._ready, one.rows.start, one.rows.stop)

    def _lay_out(self, wanted: Wanted) -> None:
        rows = wanted.rows
        kinds = np.array(wanted.constraint.lay_out(wanted.drafts, self._masks[rows], self._given[rows]))
        masked = (kinds == ALLOWED) | (kinds == ENDED)
        self._sampling["mask"][rows] = np.where(masked, self._mask_at[rows], 0)
        self._sampling["given"][rows] = np.where(kinds == GIVEN, self._given_at[rows], 0)
        self._sampling["bias_len"][rows][kinds == ENDED] = wanted.kept_biases


def addresses(rows: np.ndarray) -> np.ndarray:
    """Where each row of an array is."""
    return rows.ctypes.data + np.arange(len(rows), dtype=np.uint64) * np.uint64(rows.strides[0])
