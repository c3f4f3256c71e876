"""Time and memory of a token against the length of its context, and the straight line through them.

python bench/context.py MODEL [--longest 1048576] [--kv int8] [--seconds 2] [--prompt]

Contexts double from 1,024 to the longest. Tokens are decoded behind keys and values that are random numbers, written
straight into the KV range, since a prompt of a million tokens takes hours on a small machine; what a step does depends
on their number alone. Every window of steps has a probe of the read limit beside it. With --prompt the contexts are
those of one prompt that is computed, and times are of a token in the last steps before each, beside the multiplication
limit. A geometry whose keys and values fit a small machine, and one whose prompt of a million tokens takes minutes:

    make_checkpoint.py bench/configs/qwen3-0.6b /tmp/long --layers 2 --set max_position_embeddings=1048832
    make_checkpoint.py bench/configs/qwen3-0.6b /tmp/tiny --layers 1 --set max_position_embeddings=1048832 \\
        --set hidden_size=128 --set intermediate_size=256 --set num_attention_heads=2 --set num_key_value_heads=1 \\
        --set head_dim=64 --set vocab_size=512
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import ellm
from ellm.kernels.contract import SPLIT
from ellm.machine.limits import WINDOW, Limits
from ellm.profiling.bencher import Bencher
from ellm.serving.runtime import Runtime

FIRST = 1024
MOST_STEPS = 64  # after a context: it grows by them
PROMPT_STEPS = 4  # of a prompt that are measured before a context


@dataclass(frozen=True)
class Point:
    """Medians at one context."""

    context: int
    milliseconds: float
    resident: int  # bytes of memory that the context takes
    share: float  # of the read limit, of the bytes that a decoded token reads; of a prompt of the multiplication limit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--longest", type=int, default=1 << 20)
    parser.add_argument("--kv")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float, default=2, help="for each context")
    parser.add_argument("--prompt", action="store_true", help="one prompt in place of decoded tokens")
    arguments = parser.parse_args()
    options = {"kv": arguments.kv} if arguments.kv else {}
    context = arguments.longest + MOST_STEPS
    with ellm.LLM(arguments.model, context=context, threads=arguments.threads, **options) as llm:
        if arguments.prompt:
            points = prompt(llm.runtime, arguments.longest)
        else:
            points = measure(llm.runtime, arguments.longest, arguments.seconds)
    limit = "multiplication" if arguments.prompt else "read"
    print(f"| context | ms a token | bytes of the context | share of the {limit} limit |\n|---|---|---|---|")
    for point in points:
        print(f"| {point.context:,} | {point.milliseconds:.3f} | {point.resident / 1e6:,.1f} MB | {point.share:.0%} |")
    print(f"\n{line(points)}")


def measure(runtime: Runtime, longest: int, seconds: float) -> list[Point]:
    """A point for each context."""
    points = []
    with closing(Limits(runtime.pool, runtime.table)) as limits:
        bencher = Bencher(runtime, limits)
        empty, filled = resident(), 0
        context = FIRST
        while context <= longest:
            filled = fill(bencher, filled, context)
            taken = resident() - empty
            points.append(point(bencher, context, taken, seconds))
            context *= 2
    return points


def prompt(runtime: Runtime, longest: int) -> list[Point]:
    """A point for each context, from the steps of a prompt right before it."""
    points, steps = [], []
    with closing(Limits(runtime.pool, runtime.table)) as limits:
        bencher = Bencher(runtime, limits)
        empty, context = resident(), FIRST
        for begin in range(0, longest, bencher.chunk):
            end = min(begin + bencher.chunk, longest)
            if end + PROMPT_STEPS * bencher.chunk <= context:
                bencher.step(begin, end)
                continue
            steps.append(prompt_step(bencher, begin, end))
            if end >= context:
                times, shares = zip(*steps, strict=True)
                points.append(Point(end, statistics.median(times), resident() - empty, statistics.median(shares)))
                steps = []
            while context <= end:
                context *= 2
    return points


def prompt_step(bencher: Bencher, begin: int, end: int) -> tuple[float, float]:
    """Milliseconds a token of a step, and its share of the multiplication limit."""
    limit = bencher.limits.matmul()
    seconds = bencher.step(begin, end)
    return 1e3 * seconds / (end - begin), bencher.cost.prefill_flops(begin, end) / seconds / limit


def fill(bencher: Bencher, filled: int, context: int) -> int:
    """Write numbers of ordinary size to the blocks of positions from `filled` up to a context; returns that."""
    program, random = bencher.runtime.program, np.random.default_rng(filled)
    bits = random.integers(0x3C00, 0x3F80, 1 << 20, np.uint16) | random.integers(0, 2, 1 << 20, np.uint16) << 15
    begin, end = (program.first_block + positions // SPLIT * program.block_bytes for positions in (filled, context))
    numbers = bencher.range.array[begin:end].view(np.uint16)
    for at in range(0, len(numbers), len(bits)):
        part = numbers[at : at + len(bits)]
        part[:] = bits[: len(part)]
    return context


def point(bencher: Bencher, context: int, taken: int, seconds: float) -> Point:
    """Steps behind a context in turn with the read limit."""
    window = max(1, min(MOST_STEPS, int(WINDOW / 2 / bencher.step(context, context + 1))))
    bytes_ = statistics.fmean(bencher.cost.decode_bytes(context + i) for i in range(window))
    times, shares, until = [], [], time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < 3:
        limit = bencher.limits.read()
        each = sum(bencher.step(context + i, context + i + 1) for i in range(window)) / window
        times.append(each)
        shares.append(bytes_ / each / limit)
    return Point(context, 1e3 * statistics.median(times), taken, statistics.median(shares))


def line(points: list[Point]) -> str:
    """The least-squares line of milliseconds against length."""
    x, y = np.array([(one.context, one.milliseconds) for one in points]).T
    slope, begin = np.polyfit(x, y, 1)
    left = y - (slope * x + begin)
    r2 = 1 - left @ left / ((y - y.mean()) @ (y - y.mean()))
    return f"{begin:.3f} ms + {slope * 1e6:.3f} ns a position; R² {r2:.5f}"


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
