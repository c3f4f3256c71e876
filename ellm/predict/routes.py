"""Which experts the rows of a step go to where no router runs: drawn as unevenly as trained routers choose.

The scores of an expert are normal, with a standard deviation of its own, exp(SPREAD x a normal number): a router whose
rows have such lengths chooses so. docs/plan.md compares this to published routings.
"""

from __future__ import annotations

import numpy as np

from ellm.scheduler.program import Program

SPREAD = 0.5


def draw(program: Program, rows: int, seed: int) -> dict[int, np.ndarray]:
    """Operator of experts -> how many of so many rows each expert gets, int64 [experts].

    With the same seed a layer has the same deviations, however many the rows.
    """
    layers = [expert_operators(program, number) for number in range(len(program.wakes))]
    described = [program.operators[operators[0]] for operators in layers]
    random = np.random.default_rng(seed)
    deviations = [np.exp(SPREAD * random.standard_normal(one.experts)) for one in described]
    found: dict[int, np.ndarray] = {}
    for operators, one, deviation in zip(layers, described, deviations, strict=True):
        top_k = one.top_k
        scores = deviation * random.standard_normal((rows, one.experts), np.float32)
        chosen = np.argpartition(-scores, top_k - 1, axis=1)[:, :top_k]
        found |= dict.fromkeys(operators, np.bincount(chosen.ravel(), minlength=one.experts))
    return found


def expert_operators(program: Program, wake: int) -> tuple[int, int]:
    """The operators of the groups that a wake publishes, and of those that come after them: gate|up and down."""
    first = int(program.wakes["first"][wake])
    return int(program.groups["op"][first]), int(program.groups["op"][program.second_of(wake)])
