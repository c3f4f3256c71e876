"""How to choose tokens and when to stop. Names and defaults are those of vLLM's offline API where it has them."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ellm.kernels.contract import SAMPLING, TOKEN_NUMBER
from ellm.serving.structured import StructuredOutputs
from ellm.system.errors import InputError, one_line

MOST_ANSWERS = 16  # to one prompt
MOST_LIKELY = 20  # tokens that are listed with their log probabilities
MOST_BIASES = 1024
_LARGEST = sys.float_info.max
_NUMBER = (int, float, np.integer, np.floating)
_WHOLE = (int, np.integer)


@dataclass(frozen=True)
class SamplingParams:
    """Sampling of one request. Raises InputError, naming the field and its value, if one is out of range.

    The order is that of vLLM: structured_outputs, min_tokens and logit_bias, repeat, frequency and presence penalty,
    temperature, min_p, top_k, top_p.
    """

    temperature: float = 1.0  # 0: the most likely token
    top_p: float = 1.0  # the fewest most likely tokens whose probabilities reach this sum
    top_k: int = 0  # the k most likely tokens; 0 or -1: all
    min_p: float = 0.0  # tokens at least this likely relative to the most likely one
    repeat_penalty: float = 1.0  # divides positive and multiplies negative logits of tokens seen (repetition_penalty)
    presence_penalty: float = 0.0  # what the logits of tokens lose that the answer has
    frequency_penalty: float = 0.0  # the same for each time that it has them
    logit_bias: Mapping[int, float] | None = None  # what is added to the logits of tokens, by id: from -100 to 100
    max_tokens: int | None = 16  # None: until the end of sequence or a full context
    min_tokens: int = 0  # before these have come, none that ends the answer is drawn, and no stop string ends it
    stop: str | Sequence[str] | None = None  # strings that end the text and are not part of it; special tokens count
    stop_token_ids: Sequence[int] | None = None  # tokens that end the text and are not part of it, ignore_eos or not
    include_stop_str_in_output: bool = False  # what ends the text is part of it: a stop string, or a token's text
    seed: int | None = None  # None: another one for each request
    ignore_eos: bool = False
    n: int = 1  # answers, of which each has its own seed: `seed` and the numbers that follow it
    logprobs: int | None = None  # how many of the likeliest tokens are listed for each token of the answer
    prompt_logprobs: int | None = None  # the same for those of the prompt, which have log probabilities then
    structured_outputs: StructuredOutputs | None = None  # what the answer must be like

    def __post_init__(self) -> None:
        self._check("temperature", _NUMBER, lambda v: 0 <= v <= _LARGEST, "a number of at least 0")
        self._check("top_p", _NUMBER, lambda v: 0 < v <= 1, "a number above 0 and at most 1")
        self._check("top_k", _WHOLE, lambda v: -1 <= v < 1 << 31, "a whole number of at least -1")
        self._check("min_p", _NUMBER, lambda v: 0 <= v <= 1, "a number from 0 to 1")
        self._check("repeat_penalty", _NUMBER, lambda v: 0 < v <= _LARGEST, "a number above 0")
        for name in ("presence_penalty", "frequency_penalty"):
            self._check(name, _NUMBER, lambda v: -2 <= v <= 2, "a number from -2 to 2")
        self._check("n", _WHOLE, lambda v: 1 <= v <= MOST_ANSWERS, f"a whole number from 1 to {MOST_ANSWERS}")
        if self.max_tokens is not None:
            self._check("max_tokens", _WHOLE, lambda v: v >= 1, "a whole number of at least 1, or None")
        self._check("min_tokens", _WHOLE, lambda v: v >= 0, "a whole number of at least 0")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InputError(f"min_tokens is {self.min_tokens}, more than max_tokens, which is {self.max_tokens}")
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                wanted = f"a whole number from 0 to {MOST_LIKELY}, or None"
                self._check(name, _WHOLE, lambda v: 0 <= v <= MOST_LIKELY, wanted)
        if self.seed is not None:
            self._check("seed", _WHOLE, lambda v: 0 <= v < 1 << 64, "a whole number from 0 to 2^64 - 1")
        for name in ("ignore_eos", "include_stop_str_in_output"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be True or False, not {getattr(self, name)!r}")
        self._check_stops()
        self._check_bias()
        for name in ("top_k", "n", "max_tokens", "min_tokens", "logprobs", "prompt_logprobs", "seed"):
            if (value := getattr(self, name)) is not None:  # NumPy's numbers wrap around
                object.__setattr__(self, name, int(value))
        if not isinstance(self.structured_outputs, StructuredOutputs | None):
            raise InputError(f"structured_outputs must be StructuredOutputs, not {self.structured_outputs!r}")

    def _check(self, name: str, types: tuple, valid, wanted: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, types) or not valid(value):
            raise InputError(f"{name} must be {wanted}, not {value!r}")

    def _check_stops(self) -> None:
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if not isinstance(stops, Sequence) or not all(isinstance(text, str) and text for text in stops):
            raise InputError(f"stop must be a string or a list of strings that are not empty, not {self.stop!r}")
        ids = self.stop_token_ids or []
        if not isinstance(ids, Sequence) or not all(isinstance(i, _WHOLE) and i is not True for i in ids):
            raise InputError(f"stop_token_ids must be a list of token ids, not {self.stop_token_ids!r}")

    def _check_bias(self) -> None:
        bias = self.logit_bias or {}
        if not isinstance(bias, Mapping):
            raise InputError(f"logit_bias must map token ids to numbers, not {one_line(repr(bias))}")
        if len(bias) > MOST_BIASES:
            raise InputError(f"logit_bias has {len(bias)} entries, at most {MOST_BIASES} are allowed")
        for token, number in bias.items():
            if isinstance(token, bool) or not isinstance(token, _WHOLE):
                raise InputError(f"logit_bias must map token ids to numbers, {token!r} is none")
            if isinstance(number, bool) or not isinstance(number, _NUMBER) or not -100 <= number <= 100:
                raise InputError(f"logit_bias of token {token} must be a number from -100 to 100, not {number!r}")

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else list(self.stop)

    @property
    def likely(self) -> int:
        """How many of the likeliest tokens a row lists."""
        return max(self.logprobs or 0, self.prompt_logprobs or 0)

    def each(self) -> list[SamplingParams]:
        """The parameters of each of the `n` answers."""
        seeds = [None if self.seed is None else (self.seed + index) % (1 << 64) for index in range(self.n)]
        return [replace(self, n=1, seed=seed) for seed in seeds]

    def biases(self, ends: Sequence[int]) -> np.ndarray:
        """What is added to logits, TOKEN_NUMBER [n]: logit_bias, then what keeps `ends` from being drawn."""
        bias = self.logit_bias or {}
        pairs = [*bias.items(), *((end, -np.inf) for end in ends)]
        return np.array(pairs, TOKEN_NUMBER) if pairs else np.empty(0, TOKEN_NUMBER)

    def record(self, history: int) -> np.ndarray:
        """One `ellm_sampling` for the kernel: SAMPLING, 0-d. `history` is the address of the sequence's tokens."""
        record = np.zeros((), SAMPLING)
        for name in ("temperature", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty"):
            record[name] = getattr(self, name)
        record["top_k"] = max(self.top_k, 0)
        record["top_len"] = self.likely
        record["seed"] = secrets.randbits(64) if self.seed is None else self.seed
        record["history"] = history
        return record
