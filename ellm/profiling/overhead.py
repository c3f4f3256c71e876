"""What recording costs: decode steps with and without it, in turn."""

from __future__ import annotations

import math
import statistics
import time

from ellm.cli.bench import Bencher

SECONDS = 4.0
FEWEST, MOST = 10, 400  # pairs


def overhead(bencher: Bencher, depth: int, tasks: int) -> tuple[float, float, int]:
    """The share by which recording lengthens a decode step at `depth`, of about so many tasks; its error; and pairs.

    The median over pairs of neighbouring steps, whose order alternates, because a machine's speed moves.
    """
    bencher.fill(depth)
    begin = time.perf_counter()
    bencher.step(depth, depth + 1)
    pairs = int(min(max(SECONDS / 2 / (time.perf_counter() - begin), FEWEST), MOST))
    ratios = []
    with bencher.runtime.executable.trace(2 * (pairs + 1) * tasks) as trace:
        for pair in range(pairs):
            seconds = {}
            for recorded in (True, False) if pair % 2 else (False, True):
                (trace.resume if recorded else trace.pause)()
                seconds[recorded] = bencher.step(depth, depth + 1)
            ratios.append(seconds[True] / seconds[False])
    low, middle, high = statistics.quantiles(ratios)
    error = 1.253 * (high - low) / 1.349 / math.sqrt(pairs)  # a normal median's, by its quartiles
    return middle - 1, error, pairs
