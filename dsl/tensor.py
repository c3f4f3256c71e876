"""What graphs say about tensors: dims, shapes and the checkpoint's weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Dim:
    """A length that is known only when a step runs. `max` is the most it can be; None if compilation decides that."""

    name: str
    max: int | None = None

    def __str__(self) -> str:
        return self.name


Shape = tuple[int | Dim, ...]

T = Dim("T")
"""Rows of a step, all sequences flattened."""
L = Dim("L")
"""Rows of a step that want logits."""


def text(shape: Sequence[int | Dim]) -> str:
    """Print a shape as `[T, 16, 128]`."""
    return "[" + ", ".join(str(dim) for dim in shape) + "]"


def features(shape: Shape) -> tuple[int, ...]:
    """The dims of a value after its rows."""
    return tuple(dim for dim in shape[1:] if isinstance(dim, int))


@dataclass(frozen=True)
class Weight:
    """A tensor of the checkpoint, with the shape that the model sees: output dims, then contracted dims.

    The checkpoint stores it as [product of the output dims, product of the contracted dims], a vector as [size].
    """

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return self.name + text(self.shape)


@dataclass(frozen=True)
class Rope:
    """Rotation of pairs (i, i + rotary / 2) of a head by position * inv_freq[i]; cos and sin are times `factor`."""

    inv_freq: tuple[float, ...]
    factor: float = 1.0

    def __str__(self) -> str:
        return f"{2 * len(self.inv_freq)} dims"
