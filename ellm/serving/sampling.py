"""How to choose tokens and when to stop. Names and defaults are those of vLLM's offline API where it has them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ellm.kernels.contract import SAMPLING
from ellm.system.errors import InputError


@dataclass(frozen=True)
class SamplingParams:
    """Sampling of one request. Raises InputError, naming the field and its value, if one is out of range.

    The order is that of vLLM: repeat penalty, temperature, min_p, top_k, top_p.
    """

    temperature: float = 1.0  # 0: the most likely token
    top_p: float = 1.0  # the fewest most likely tokens whose probabilities reach this sum
    top_k: int = 0  # the k most likely tokens; 0 or -1: all
    min_p: float = 0.0  # tokens at least this likely relative to the most likely one
    repeat_penalty: float = 1.0  # divides positive and multiplies negative logits of tokens seen (repetition_penalty)
    max_tokens: int | None = 16  # None: until the end of sequence or a full context
    stop: str | Sequence[str] | None = None  # strings that end the text and are not part of it; special tokens count
    stop_token_ids: Sequence[int] | None = None  # tokens that end the text and are not part of it, ignore_eos or not
    seed: int | None = None  # None: another one for each request
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        number = (int, float, np.integer, np.floating)
        self._check("temperature", number, lambda v: 0 <= v < float("inf"), "a number of at least 0")
        self._check("top_p", number, lambda v: 0 < v <= 1, "a number above 0 and at most 1")
        self._check("top_k", (int, np.integer), lambda v: v >= -1, "a whole number of at least -1")
        self._check("min_p", number, lambda v: 0 <= v <= 1, "a number from 0 to 1")
        self._check("repeat_penalty", number, lambda v: 0 < v < float("inf"), "a number above 0")
        if self.max_tokens is not None:
            self._check("max_tokens", (int, np.integer), lambda v: v >= 1, "a whole number of at least 1, or None")
        if self.seed is not None:
            self._check("seed", (int, np.integer), lambda v: 0 <= v < 1 << 64, "a whole number from 0 to 2^64 - 1")
        if not isinstance(self.ignore_eos, bool):
            raise InputError(f"ignore_eos must be True or False, not {self.ignore_eos!r}")
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if not isinstance(stops, Sequence) or not all(isinstance(text, str) and text for text in stops):
            raise InputError(f"stop must be a string or a list of strings that are not empty, not {self.stop!r}")
        ids = self.stop_token_ids or []
        if not isinstance(ids, Sequence) or not all(isinstance(i, int | np.integer) and i is not True for i in ids):
            raise InputError(f"stop_token_ids must be a list of token ids, not {self.stop_token_ids!r}")

    def _check(self, name: str, types: tuple, valid, wanted: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, types) or not valid(value):
            raise InputError(f"{name} must be {wanted}, not {value!r}")

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else list(self.stop)

    def record(self, history: int) -> np.ndarray:
        """One `ellm_sampling` for the kernel: SAMPLING, 0-d. `history` is the address of the sequence's tokens."""
        record = np.zeros((), SAMPLING)
        for name in ("temperature", "top_p", "min_p", "repeat_penalty"):
            record[name] = getattr(self, name)
        record["top_k"] = max(self.top_k, 0)
        record["seed"] = secrets.randbits(64) if self.seed is None else self.seed
        record["history"] = history
        return record
