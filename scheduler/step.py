"""One step as its caller gives it: a flat list of rows, the rows of one sequence one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class StepInput:
    """The rows of a step and where its results go. Arrays are kept until the step has ended."""

    tokens: np.ndarray  # int32 [rows]
    positions: np.ndarray  # int32 [rows]
    slots: np.ndarray  # int32 [rows]: index of the row's sequence in ranges
    ranges: np.ndarray  # uint64 [slots]: addresses of the sequences' KV ranges
    logit_row: np.ndarray  # int32 [logit rows]: rows that want logits, ascending
    logits: np.ndarray  # float32 [logit rows, vocab]: written
    sampling: np.ndarray | None = None  # SAMPLING [logit rows]; None: nothing is sampled
    sampled: np.ndarray | None = None  # int32 [logit rows]: written
    logprob: np.ndarray | None = None  # float32 [logit rows]: written
    ended: bool = False  # written: all of it was computed, even if an interrupt keeps `run` from returning
