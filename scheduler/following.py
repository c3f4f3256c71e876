"""What a worker that waits after a group may fetch before it is asked for."""

from __future__ import annotations

import numpy as np

from ellm.kernels.contract import FIELDS
from ellm.scheduler.program import Lists, Program

_STEPS = 3  # groups that are looked through: norm, attend and merge have no weights


def following(program: Program) -> np.ndarray:
    """int32 [groups]: the first group with a packed matrix that comes after each, whatever the routes, or -1."""
    matmul = np.array(["task_tiles" in FIELDS.get(program.kernels[kernel], ()) for kernel in program.op_kernel], bool)
    op = program.groups["op"]
    own = np.where(matmul[op], np.arange(len(op)), -1)
    found = own
    for step in range(_STEPS):
        published = _first_of(program.publishes, found if step == 0 else np.where(own >= 0, own, found))
        found = _first_of(program.signals, published)
    return found


def _first_of(ranges: Lists, values: np.ndarray) -> np.ndarray:
    """For each owner of ranges the first value of its items that is not -1; -1: there is none."""
    owners = np.repeat(np.arange(len(ranges)), np.diff(ranges.begin))
    found = values[ranges.items]
    owners, found = owners[found >= 0], found[found >= 0]
    out = np.full(len(ranges), -1, np.int32)
    out[owners[::-1]] = found[::-1]  # the last to be stored, the first, stays
    return out
