"""What graphs say about tensors: dims, shapes and the checkpoint's weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ellm.kernels.formats import PLAIN


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
R = Dim("R")
"""Rows of a step that were routed to an expert: each row once for each of its choices."""


@dataclass(frozen=True)
class Expert:
    """The number of one of `count` experts, in the indices of its weights."""

    count: int

    def __str__(self) -> str:
        return "{expert}"


@dataclass(frozen=True)
class Part:
    """What is seen of a stored tensor's rows: of every `period`, these `rows`: `first`, `first + step`, ..."""

    period: int
    rows: int
    first: int = 0
    step: int = 1

    def __str__(self) -> str:
        end = self.first + (self.rows - 1) * self.step + 1
        return f"({self.first}:{end}:{self.step} of {self.period})"


@dataclass(frozen=True)
class Scope:
    """The block that something belongs to: number `layer` of a list of modules, such as "layers"; by default none."""

    modules: str = ""
    layer: int = -1

    def __bool__(self) -> bool:
        return bool(self.modules)

    def name(self, part: str) -> str:
        """The name of a part of the block: "layers.3.qkv"."""
        return f"{self.modules}.{self.layer}.{part}" if self else part


NOWHERE = Scope()
"""No block."""


def text(shape: Sequence[int | Dim]) -> str:
    """Print a shape as `[T, 16, 128]`."""
    return "[" + ", ".join(str(dim) for dim in shape) + "]"


def features(shape: Shape) -> tuple[int, ...]:
    """The dims of a value after its rows."""
    return tuple(dim for dim in shape[1:] if isinstance(dim, int))


@dataclass(frozen=True)
class Weight:
    """A tensor of the checkpoint, with the shape that the model sees: output dims, then contracted dims.

    The checkpoint stores it as [product of the output dims, product of the contracted dims], a vector as [size]. Or it
    is `transposed`: stored [contracted, output]; or `part` of a tensor's output dims, `k_part` of its contracted ones.
    `experts` are the tensors of as many experts, "{expert}" in the name standing for their number; or, if `stacked`,
    one tensor [experts, ...]. `precision` is what the checkpoint stores, a name of `ellm.kernels.formats`, and `packed`
    what kernels compute with, once a policy has said so. `scope` is the block that holds it, `line` the model line that
    gave it this shape.
    """

    name: str
    shape: tuple[int, ...]
    experts: int = 0
    stacked: bool = False
    transposed: bool = False
    part: Part | None = None
    k_part: Part | None = None
    precision: str = PLAIN.name
    packed: str = ""
    scope: Scope = NOWHERE
    line: str = field(default="", compare=False)

    @property
    def size(self) -> int:
        """Number of elements that the model sees, of one expert."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        stack = f"[{self.experts}]" if self.stacked else ""
        parts = "".join(f" {part}" for part in (self.part, self.k_part) if part)
        return self.name + stack + text(self.shape) + parts


@dataclass(frozen=True)
class Rope:
    """Rotation of pair i of a head's dims by position * inv_freq[i]; cos and sin are times `factor`."""

    inv_freq: tuple[float, ...]
    factor: float = 1.0

    def __str__(self) -> str:
        return f"{2 * len(self.inv_freq)} dims"
