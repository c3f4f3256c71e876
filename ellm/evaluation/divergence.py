"""Kullback-Leibler divergence, agreement and perplexity of two models from the logits of the same positions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

_ROWS = 8  # positions at a time: float64 copies of their logits stay in the caches


@dataclass(frozen=True)
class Mean:
    """A mean over positions and its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, numbers: np.ndarray) -> Mean:
        """Of numbers [positions]; a single one has no error."""
        error = numbers.std(ddof=1) / math.sqrt(len(numbers)) if len(numbers) > 1 else 0.0
        return cls(float(numbers.mean()), float(error))


@dataclass
class Divergence:
    """What is known of each scored position, in nats."""

    kl: list[np.ndarray] = field(default_factory=list)  # KL(A || B), float64
    same: list[np.ndarray] = field(default_factory=list)  # whether both put the same token first
    surprise_a: list[np.ndarray] = field(default_factory=list)  # -log of the probability of the text's next token
    surprise_b: list[np.ndarray] = field(default_factory=list)

    def add(self, a: np.ndarray, b: np.ndarray, following: np.ndarray) -> None:
        """Positions by their logits, float32 [n, vocab], and the tokens that follow them, int [n]."""
        for first in range(0, len(following), _ROWS):
            rows = slice(first, first + _ROWS)
            p, q, token = log_softmax(a[rows]), log_softmax(b[rows]), following[rows, None]
            self.kl.append((np.exp(p) * (p - q)).sum(axis=1))
            self.same.append(p.argmax(axis=1) == q.argmax(axis=1))
            self.surprise_a.append(-np.take_along_axis(p, token, 1)[:, 0])
            self.surprise_b.append(-np.take_along_axis(q, token, 1)[:, 0])

    def summary(self) -> Summary:
        """Over all positions, of which there is one at least."""
        kl = np.concatenate(self.kl)
        a, b = (Mean.of(np.concatenate(each)) for each in (self.surprise_a, self.surprise_b))
        return Summary(
            positions=len(kl),
            kl=Mean.of(kl),
            kl_median=float(np.median(kl)),
            kl_99=float(np.quantile(kl, 0.99)),
            kl_max=float(kl.max()),
            same_top=Mean.of(np.concatenate(self.same).astype(np.float64)),
            perplexity_a=_perplexity(a),
            perplexity_b=_perplexity(b),
        )


@dataclass(frozen=True)
class Summary:
    """KL(A || B) in nats, the share of positions at which both put the same token first, and the perplexities."""

    positions: int
    kl: Mean
    kl_median: float
    kl_99: float
    kl_max: float
    same_top: Mean
    perplexity_a: Mean
    perplexity_b: Mean


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float32 [n, vocab] -> log-probabilities, float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _perplexity(surprise: Mean) -> Mean:
    """e to the mean surprise; its error to first order."""
    value = math.exp(min(surprise.value, 700.0))
    return Mean(value, value * surprise.error)
