"""A text in windows of one length, and which of their positions are scored.

As llama.cpp's `llama-perplexity` does it: windows do not overlap, and of each the second half is scored, so that every
scored token has half a window before it. What is left over at the end is left out; a text that is shorter than one
window is one, and all of it is scored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Windows:
    """`tokens` int32 [T], without what begins a text, in windows that begin with `start`, of `size` tokens in all."""

    tokens: np.ndarray
    start: tuple[int, ...]
    size: int

    @property
    def step(self) -> int:
        """Tokens of the text in a window."""
        return min(self.size - len(self.start), len(self.tokens))

    @property
    def length(self) -> int:
        """Tokens of a window."""
        return self.step + len(self.start)

    @property
    def count(self) -> int:
        """How many windows there are."""
        return len(self.tokens) // self.step

    @property
    def left_over(self) -> int:
        """Tokens in none of them."""
        return len(self.tokens) - self.count * self.step

    @property
    def first(self) -> int:
        """The first position of a window that is scored: for how well the token after it is foretold."""
        return self.length // 2 if self.length == self.size else 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for number in range(self.count):
            own = self.tokens[number * self.step : (number + 1) * self.step]
            yield np.concatenate((np.array(self.start, np.int32), own))
