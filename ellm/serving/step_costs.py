"""What steps take by the number of their rows, as far as they have been run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FORGET = 512  # steps after which a time is not believed any more
LEAST_SLOPE = 0.01  # of a step: what a row that was never timed is expected to add at least
STEADY = 3 / 4  # how much of a time is kept when it is measured again


@dataclass
class Measured:
    """Seconds of a step, and the number of the last step that they were measured in."""

    seconds: float
    step: int
    sure: bool = False  # measured twice: the first step of so many rows also touches new memory

    def again(self, seconds: float, step: int) -> float:
        """Measure it once more; by how much that changes it."""
        before, self.step = self.seconds, step
        if self.sure:
            self.seconds += (1 - STEADY) * (min(seconds, 2 * before) - before)
        else:
            self.seconds, self.sure = min(seconds, before), True
        return self.seconds / before


class StepCosts:
    """Seconds of the steps of so many sequences, with one row each or with more."""

    def __init__(self, sequences: int, most: int):
        powers = [1 << i for i in range(most.bit_length())]
        self._rows = [sequences, *(rows for rows in powers if sequences < rows <= most)]
        self._times: dict[int, Measured] = {}
        self._steps = self._last = 0

    def expected(self) -> list[tuple[int, float]]:
        """(rows, seconds) of some steps, by rising rows: at first those of one row a sequence; none if that is unknown.

        The last one may be unmeasured: where the two before it point to. Of more rows nothing is known.
        """
        known = [rows for rows in self._rows if rows in self._times and self._steps - self._times[rows].step <= FORGET]
        if known[:1] != self._rows[:1]:
            return []
        seconds = [self._times[rows].seconds for rows in known]
        inner = [rows for rows in self._rows if rows <= known[-1]]
        found = list(zip(inner, np.interp(inner, known, seconds).tolist(), strict=True))
        if len(inner) < len(self._rows):
            slope = LEAST_SLOPE * seconds[0]
            if len(known) > 1:
                slope = max(slope, (seconds[-1] - seconds[-2]) / (known[-1] - known[-2]))
            rows = self._rows[len(inner)]
            found.append((rows, seconds[-1] + slope * (rows - known[-1])))
        return found

    def measured(self, rows: int, seconds: float) -> None:
        """A step of so many rows took so long."""
        self._steps += 1
        if rows in self._times:
            changed = self._times[rows].again(seconds, self._steps)
            if self._last == rows:  # steps of any rows have changed, with the context or with the machine's load
                for other in self._times.keys() - {rows}:
                    self._times[other].seconds *= changed
        elif rows in self._rows:
            self._times[rows] = Measured(seconds, self._steps)
        self._last = rows
