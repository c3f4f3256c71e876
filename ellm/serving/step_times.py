"""What steps take: seconds a + b * rows + c * rows * context, fitted to the steps that were run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ellm.serving.step_costs import STEADY


@dataclass
class Mean:
    """Of steps with about as many rows: rows, the sum over rows of the positions that each attends to, and seconds."""

    rows: float
    attended: float
    seconds: float
    sure: bool = False  # measured twice: the first step of so many rows also touches new memory

    def add(self, rows: int, attended: float, seconds: float) -> None:
        """One more step."""
        kept = STEADY if self.sure else 0.0
        if self.sure:
            seconds = min(seconds, 2 * self.seconds)
        self.rows = kept * self.rows + (1 - kept) * rows
        self.attended = kept * self.attended + (1 - kept) * attended
        self.seconds, self.sure = kept * self.seconds + (1 - kept) * seconds, True


class StepTimes:
    """Seconds of steps, of which those with as many units of `unit` rows are alike."""

    def __init__(self, unit: int):
        self.row_seconds = 0.0  # of a prompt's row in the longest steps; 0: unknown
        self._unit = unit
        self._means: dict[tuple[bool, int], Mean] = {}  # by whether all rows decode, and the number of units
        self._fitted: tuple[float, float, float] | None = None

    def measured(self, rows: int, attended: float, seconds: float, decoding: bool) -> None:
        """A step took so long; `decoding`: no rows of prompts were in it."""
        kind = decoding, -(-rows // self._unit)
        if kind in self._means:
            self._means[kind].add(rows, attended, seconds)
        else:
            self._means[kind] = Mean(float(rows), attended, seconds)
        self._fitted = None
        if not decoding:
            longest = self._means[False, max(units for alone, units in self._means if not alone)]
            self.row_seconds = longest.seconds / longest.rows

    def decoding(self, sequences: int) -> float:
        """Seconds of a step of so many decoding sequences; 0 if none was run."""
        found = self._means.get((True, -(-sequences // self._unit)))
        return found.seconds if found else 0.0

    def rows_within(self, seconds: float, context: int) -> int:
        """Rows of a prompt, behind so many positions, that lengthen a step by no more than that; 0 if unknown."""
        _, row, position = self._fit()
        each = row + position * context
        return int(seconds / each) if each > 0 and seconds > 0 else 0

    def _fit(self) -> tuple[float, float, float]:
        """Seconds of a step, of one row and of one position that a row attends to."""
        if self._fitted is None:
            self._fitted = _fitted([(one.rows, one.attended, one.seconds) for one in self._means.values()])
        return self._fitted


def _fitted(samples: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    """The coefficients, none negative, with the least sum of squared relative errors."""
    table = np.array(samples).reshape(-1, 3)
    seconds = table[:, 2]
    known = np.column_stack([np.ones(len(table)), table[:, :2]]) / seconds[:, None]
    scale = np.abs(known).max(axis=0, initial=0)
    used = np.array([1, 0, 2][: len(table)], int)  # no more than samples; one is said to be of rows alone
    used = used[scale[used] > 0]
    while len(used):
        found = np.linalg.lstsq(known[:, used] / scale[used], np.ones(len(table)), rcond=1e-6)[0]
        if (found >= 0).all():
            result = np.zeros(3)
            result[used] = found / scale[used]
            return float(result[0]), float(result[1]), float(result[2])
        used = np.delete(used, found.argmin())
    return 0.0, 0.0, 0.0
