"""Measures prefill and decode in turn with the limits of the machine.

A machine's speed moves within seconds, so every window of measured work (at most a tenth of a second, or one step) has
a probe of its limit right before it. A share is the median over those pairs. Of a mixture of experts, the bytes and
operations of the experts that a token is routed to count.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np

from ellm.kernels.contract import SAMPLING
from ellm.machine.limits import WINDOW, Limits
from ellm.predict.roofline import Cost
from ellm.scheduler import StepInput
from ellm.scheduler.program import chosen
from ellm.serving.runtime import Runtime
from ellm.system.memory import HUGE, Mapping


@dataclass
class Result:
    """Medians of one measurement; `rate` is in FLOP/s for prefill and in bytes/s for decode, as is its limit."""

    name: str  # "prefill 512" tokens, "decode 128 at 128": tokens after a context of so many
    rows: int  # of a step
    tokens_per_second: float
    rate: float
    limit: float  # of this machine, measured in turn with the model
    share: float  # rate / limit
    bytes_per_token: float | None  # of weights, keys and values that a decoded token touches; None for prefill
    pairs: int  # of windows of measured work and probes of the limit


class Bencher:
    """Runs one sequence of random tokens step by step."""

    def __init__(self, runtime: Runtime, limits: Limits):
        self.runtime, self.limits, self.chunk = runtime, limits, runtime.chunk
        self.cost = Cost.of(runtime.program)
        self.range = Mapping(runtime.compiled.range_bytes, "the KV range of a sequence")
        self.range.advise_huge(runtime.program.block_bytes >= HUGE)  # as the engine does where a prompt fills blocks
        self.tokens = np.random.default_rng(0).integers(0, runtime.program.vocab, runtime.context, dtype=np.int32)
        self.positions = np.arange(runtime.context, dtype=np.int32)
        self.logits = np.empty((1, runtime.program.vocab), np.float32)

    def step(self, begin: int, end: int) -> float:
        """Run positions [begin, end), choose the token after them, and return the seconds that took."""
        step = StepInput.of(
            self.positions[begin:end],
            self.tokens[begin:end],
            ranges=[self.range.address],
            logit_row=[end - begin - 1],
            logits=self.logits,
            sampling=np.zeros(1, SAMPLING),
        )
        start = time.perf_counter()
        chosen(self.runtime.executables, end - begin).run(step)
        return time.perf_counter() - start

    def fill(self, tokens: int) -> None:
        """Bring a context of so many tokens into the KV range."""
        for begin in range(0, tokens, self.chunk):
            self.step(begin, min(begin + self.chunk, tokens))

    def prefill(self, tokens: int, repeat: int) -> Result:
        """A prompt of so many tokens, in steps of the chunk, against the multiplication limit."""
        self.step(0, min(tokens, self.chunk))
        speeds, pairs = [], []
        for _ in range(repeat):
            total = 0.0
            for begin in range(0, tokens, self.chunk):
                end = min(begin + self.chunk, tokens)
                limit = self.limits.matmul()
                seconds = self.step(begin, end)
                total += seconds
                cost = Cost.of(chosen(self.runtime.executables, end - begin).program)
                pairs.append((cost.prefill_flops(begin, end) / seconds, limit))
            speeds.append(tokens / total)
        return summary(f"prefill {tokens}", self.chunk, speeds, pairs, None)

    def decode(self, depth: int, tokens: int, repeat: int) -> Result:
        """So many tokens one by one after a context of `depth`, against the memory read limit."""
        self.fill(depth)
        window = max(1, int(WINDOW / 2 / self.step(depth, depth + 1)))
        speeds, pairs = [], []
        for _ in range(repeat):
            total = 0.0
            for begin in range(depth, depth + tokens, window):
                positions = range(begin, min(begin + window, depth + tokens))
                limit = self.limits.read()
                seconds = sum(self.step(position, position + 1) for position in positions)
                total += seconds
                pairs.append((sum(map(self.cost.decode_bytes, positions)) / seconds, limit))
            speeds.append(tokens / total)
        size = statistics.fmean(map(self.cost.decode_bytes, range(depth, depth + tokens)))
        return summary(f"decode {tokens} at {depth}", 1, speeds, pairs, size)


def summary(name: str, rows: int, speeds: list[float], pairs: list[tuple[float, float]], size: float | None) -> Result:
    """Medians of the repetitions' tokens a second and of the (rate, limit) pairs."""
    rates, limits = zip(*pairs, strict=True)
    return Result(
        name=name,
        rows=rows,
        tokens_per_second=statistics.median(speeds),
        rate=statistics.median(rates),
        limit=statistics.median(limits),
        share=statistics.median(rate / limit for rate, limit in pairs),
        bytes_per_token=size,
        pairs=len(pairs),
    )
