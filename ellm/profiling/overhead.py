"""What recording costs: decode steps with and without it, in turn."""

from __future__ import annotations

import numpy as np

from ellm.profiling.bencher import Bencher
from ellm.profiling.recorder import room

SECONDS = 4.0
FEWEST, MOST = 10, 400  # pairs
RESAMPLES = 500


def overhead(bencher: Bencher, depth: int, tasks: int) -> tuple[float, float, int]:
    """The share by which recording lengthens a decode step at `depth`, of about so many tasks; its error; and pairs."""
    bencher.fill(depth)
    pairs = int(min(max(SECONDS / 2 / bencher.step(depth, depth + 1), FEWEST), MOST))
    seconds = np.empty((pairs, 2))  # without, with
    step_records = 2 * tasks  # any core may run all of them, and idle in between
    records = room((pairs + 1) * step_records, bencher.runtime.pool.threads)
    with bencher.runtime.executable.trace(records) as trace:
        for pair in range(pairs):
            for recorded in (0, 1) if pair % 2 else (1, 0):  # a machine's speed moves: neither is always first
                (trace.resume if recorded else trace.pause)()
                seconds[pair, recorded] = bencher.step(depth, depth + 1)
            if (pair + 1) % max(1, records // step_records) == 0:  # the next might not fit
                trace.pause()
                trace.clear()
    drawn = np.random.default_rng(0).integers(0, pairs, (RESAMPLES, pairs))
    return float(_ratio(seconds[None])[0]) - 1, float(np.std(_ratio(seconds[drawn]))), pairs


def _ratio(seconds: np.ndarray) -> np.ndarray:
    """Of samples [n, pairs, 2], the ratio of the lower quartiles: steps that lost their core to others are longer."""
    without, recorded = np.quantile(seconds, 0.25, axis=1).T
    return recorded / without
