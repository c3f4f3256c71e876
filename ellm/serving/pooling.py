"""One vector of the final hidden states of a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np

from ellm.system.errors import InputError, one_line

POOLINGS = ("last", "mean")
"""The state of the last token, or the mean of all."""


def check_pooling(wanted: str | None) -> None:
    """Raise InputError unless that is one of POOLINGS, or None."""
    if wanted is not None and wanted not in POOLINGS:
        raise InputError(f"pooling must be {' or '.join(POOLINGS)}, not {one_line(repr(wanted), 60)}")


@dataclass(frozen=True)
class PoolingParams:
    """What an embedding is to be like, by vLLM's names.

    `dimensions`: so many of the first numbers are kept (None: all), for models that were trained so (Matryoshka).
    `normalize`: the length of what is kept becomes 1 (None: as the checkpoint says, else yes). Raises InputError.
    """

    dimensions: int | None = None
    normalize: bool | None = None

    def __post_init__(self) -> None:
        wanted = self.dimensions
        if wanted is not None and (isinstance(wanted, bool) or not isinstance(wanted, Integral) or wanted < 1):
            raise InputError(f"dimensions must be a whole number from 1 on, or None, not {wanted!r}")
        if not isinstance(self.normalize, bool | None):
            raise InputError(f"normalize must be True, False or None, not {self.normalize!r}")


class Pooling:
    """Takes in the rows of a prompt of `length` tokens as they are computed.

    They are added up in float64, one after the other in order of position, so the bits depend on no step.
    """

    def __init__(self, kind: str, length: int):
        self._first = length - 1 if kind == "last" else 0
        self._length = length
        self._sum: np.ndarray | None = None
        self.next = self._first  # the first position whose row is still wanted

    def wanted(self, begin: int, end: int) -> range:
        """Those of these positions whose rows are."""
        return range(max(begin, self.next), end)

    def add(self, rows: np.ndarray) -> None:
        """The rows of the next positions, float32 [n, width]."""
        if self._sum is None:
            self._sum = np.zeros(rows.shape[1])
        for row in rows:  # which no function of NumPy's promises to do in this order
            self._sum += row
        self.next += len(rows)

    def vector(self, dimensions: int | None, normalize: bool) -> np.ndarray:
        """The embedding, float32 [dimensions or width], when all rows are there."""
        assert self._sum is not None and self.next == self._length
        with np.errstate(over="ignore", invalid="ignore"):
            pooled = (self._sum / (self._length - self._first))[:dimensions]
            length = np.sqrt(np.square(pooled).sum()) if normalize else 1.0
            return (pooled / (length or 1.0)).astype(np.float32)
