"""How evenly rows spread over experts, and how many experts a token shares with the one before it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ellm.profiling.recorder import DECODE, Step


@dataclass
class Routing:
    """What the router did in some steps."""

    rows: np.ndarray  # int [layers with experts, experts]: rows that each expert got
    imbalance: np.ndarray  # float [layers]: the rows of the busiest expert over the mean
    unused: np.ndarray  # int [layers]: experts that got no row
    reuse: np.ndarray  # float [layers]: of a decoded token's experts, the share that the token before had too; or nan


def routing(steps: list[Step]) -> Routing | None:
    """Add up these steps; None if the model has no experts. Reuse is that of consecutive decoded tokens."""
    if not steps or not steps[0].experts.size:
        return None
    rows: np.ndarray = np.sum([step.experts for step in steps], axis=0)
    hits = [step.experts > 0 for step in steps if step.phase == DECODE and step.rows == 1]
    shares = [(now & before).sum(1) / now.sum(1) for before, now in pairwise(hits)]
    return Routing(
        rows=rows,
        imbalance=rows.max(1) / rows.mean(1),
        unused=(rows == 0).sum(1),
        reuse=np.mean(shares, axis=0) if shares else np.full(len(rows), np.nan),
    )
