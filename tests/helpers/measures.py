"""How far one set of logits is from another."""

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logits [T, V] -> log-probabilities float64 [T, V]."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def divergences(truth: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """KL(truth || logits) in nats of each position, float64 [T]; both logits or log-probabilities [T, V]."""
    p, q = log_softmax(truth), log_softmax(logits)
    return (np.exp(p) * (p - q)).sum(axis=-1)


def divergence(truth: np.ndarray, logits: np.ndarray) -> float:
    """Mean of `divergences`."""
    return float(divergences(truth, logits).mean())


def agreement(truth: np.ndarray, logits: np.ndarray) -> float:
    """Share of positions at which `logits` [T, V] puts the token `truth` [T] first."""
    return float((logits.argmax(axis=-1) == truth).mean())
