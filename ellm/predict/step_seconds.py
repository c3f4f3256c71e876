"""How long any step would take on a described machine, from a few that are simulated."""

from __future__ import annotations

import numpy as np

from ellm.predict.planner import Planner
from ellm.predict.task_costs import Shape


class StepSeconds:
    """Seconds of steps that mix decoding sequences with rows of prompts.

    What depends on the number of rows is interpolated between simulated numbers of them; to this comes what the rows
    attend to, at the rate that was found deep in a context. Decoding sequences want logits each, and their rows read
    each a context of its own, so they are simulated as what they are.
    """

    def __init__(self, planner: Planner, most_sequences: int, deepest: int):
        chunk = planner.program.chunk
        self._sequences = _numbers(min(most_sequences, chunk))
        self._rows = _numbers(chunk)
        self._decode = [planner.step_ms(Shape(count, 0, 1)) / 1e3 for count in self._sequences]
        self._prompt = [planner.step_ms(Shape(1, 0, rows)) / 1e3 for rows in self._rows]
        count, rows = self._sequences[len(self._sequences) // 2], min(planner.program.row_block, chunk)
        begin = max(1, deepest - rows)
        deep, near = (planner.step_ms(Shape(count, at, 1)) / 1e3 for at in (begin, 0))
        self._attend_one = max(0.0, deep - near) / (count * begin)
        deep, near = (planner.step_ms(Shape(1, at, rows)) / 1e3 for at in (begin, 0))
        self._attend_many = max(0.0, deep - near) / (rows * begin)

    def __call__(self, shares: list[tuple[int, int]]) -> float:
        """Of a step in which each share has so many rows from a position on."""
        decoded = [begin for begin, rows in shares if rows == 1]
        prompts = [(begin, rows) for begin, rows in shares if rows > 1]
        rows = len(decoded) + sum(rows for _, rows in prompts)
        seconds = float(np.interp(rows, self._rows, self._prompt)) if prompts else 0.0
        seconds = max(seconds, float(np.interp(len(decoded), self._sequences, self._decode)) if decoded else 0.0)
        attended = sum(begin * rows for begin, rows in prompts)
        return seconds + sum(decoded) * self._attend_one + attended * self._attend_many


def _numbers(most: int) -> list[int]:
    """1, 4, 16 and so on, and the most."""
    return sorted({*(4**i for i in range(10) if 4**i < most), most})
