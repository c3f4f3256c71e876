"""Crews: workers that are near to each other.

The workers of a crew count the tasks that they were given in one word, look at each other first for tasks to steal, and
wake each other. There are as few as a word can serve without becoming what all wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

MOST = 12  # workers of a crew: so many wait for a line in turn, 128 workers have 11 words to count in the next level


@dataclass(frozen=True)
class Crews:
    """Rows of workers, one after the other, and which are near to which."""

    begin: np.ndarray  # int32 [crews + 1]: the workers of each
    node: np.ndarray  # int32 [workers, 2]: the workers that are in one place with each: the first, and behind the last
    order: np.ndarray  # int32 [crews, crews]: for each all of them, itself first, then the nearest

    @staticmethod
    def of(places: Sequence[Hashable], distance: Callable[[int, int], Any]) -> Crews:
        """Cut workers, of whom those are near to each other whose `places` are equal and who follow each other.

        `distance` of two workers is anything that can be compared; of two crews it is that of their first workers, ties
        are those of the next ones onwards.
        """
        sizes: list[int] = []
        nodes: list[tuple[int, int]] = []
        for _, row in groupby(places):
            count = len(list(row))
            nodes += [(len(nodes), len(nodes) + count)] * count
            parts = -(-count // MOST)
            sizes += [count * (part + 1) // parts - count * part // parts for part in range(parts)]
        begin = np.cumsum([0, *sizes])
        crews = range(len(sizes))

        def nearest(crew: int) -> list[int]:
            return sorted(
                crews,
                key=lambda other: (
                    other != crew,
                    distance(int(begin[crew]), int(begin[other])),
                    (other - crew) % len(sizes),
                ),
            )

        order = np.array([nearest(crew) for crew in crews], np.int32)
        return Crews(begin.astype(np.int32), np.array(nodes, np.int32), order)

    @property
    def count(self) -> int:
        """Number of crews."""
        return len(self.order)

    @property
    def of_worker(self) -> np.ndarray:
        """int32 [workers]: the crew of each."""
        return np.repeat(np.arange(self.count, dtype=np.int32), np.diff(self.begin))
