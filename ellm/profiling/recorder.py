"""Runs the steps of an engine and keeps what a trace of the workers does not tell."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ellm.kernels import contract
from ellm.scheduler import StepInput, Successor
from ellm.scheduler.pool import LoadedProgram
from ellm.scheduler.program import Program
from ellm.scheduler.rings import RECORD
from ellm.scheduler.step import Numbers

PREFILL, DECODE = "prefill", "decode"
RING_BYTES = 1 << 28  # of all cores at most
RECORD_BYTES = RECORD.itemsize


@dataclass
class Step:
    """One step of one sequence, as its caller saw it."""

    number: int  # of the executable's steps
    phase: str  # PREFILL or DECODE
    first: int  # position of its first row
    rows: int
    logit_rows: int
    begin_ns: int  # as time.perf_counter_ns counts
    end_ns: int
    experts: np.ndarray  # int [layers with experts, experts]: rows that each got
    gap_ns: int | None = None  # what its caller did since the step before; None: there was none

    @property
    def ns(self) -> int:
        """How long the caller waited for it."""
        return self.end_ns - self.begin_ns


class Recorder:
    """Stands in for an executable: runs its steps, which are those of one sequence, and lists them in `steps`."""

    def __init__(self, executable: LoadedProgram, prompt_length: int):
        self._executable, self._prompt_length = executable, prompt_length
        self.program = executable.program
        self._begins = executable.watch(_expert_begins(executable.program))
        self.steps: list[Step] = []
        self._returned = 0

    @property
    def experts_woken(self) -> int:
        """As of an executable."""
        return self._executable.experts_woken

    def hidden(self, rows: Numbers) -> np.ndarray:
        """Of the last step, as of an executable."""
        return self._executable.hidden(rows)

    def hold(self) -> None:
        """As of an executable."""
        self._executable.hold()

    def run(self, inputs: StepInput, meanwhile: Callable[[], Successor | None] | None = None) -> None:
        """Run one step, and what follows it."""
        begin = time.perf_counter_ns()
        following: list[StepInput] = []
        running = inputs

        def recorded() -> Successor | None:
            nonlocal begin, running
            if following:
                ended = self._executable.ended_ns
                self._note(running, self._executable.number - 1, begin, ended)
                begin, running = ended, following.pop()
                self._returned = ended
            successor = None if meanwhile is None else meanwhile()
            if successor is not None:
                following.append(successor.inputs)
            return successor

        self._executable.run(inputs, recorded)
        self._note(running, self._executable.number, begin, time.perf_counter_ns())
        self._returned = time.perf_counter_ns()

    def _note(self, inputs: StepInput, number: int, begin: int, end: int) -> None:
        """List a step that has ended."""
        first = int(inputs.positions[0])
        self.steps.append(
            Step(
                number=number,
                phase=PREFILL if first < self._prompt_length else DECODE,
                first=first,
                rows=len(inputs.tokens),
                logit_rows=len(inputs.logit_row),
                begin_ns=begin,
                end_ns=end,
                experts=np.array([np.diff(begins[number % 2]) for begins in self._begins]),
                gap_ns=begin - self._returned if self.steps else None,
            )
        )


def room(wanted: int, workers: int) -> int:
    """How many of the records that are wanted each worker and the caller get room for."""
    return min(wanted, RING_BYTES // (RECORD_BYTES * (workers + 1)))


def _expert_begins(program: Program) -> list[tuple[int, int]]:
    """Where in the arena each dispatch writes the first routed row of each expert: (offset, length)."""
    lists, places = set(program.wakes["list"].tolist()), []
    for kernel, args in zip(program.op_kernel.tolist(), program.args, strict=True):
        written = contract.unpack(program.kernels[kernel], args)
        if written.get("list") in lists:
            places.append((written["begin"], written["experts"] + 1))
    return places
