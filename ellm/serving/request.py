"""One request on its way: its tokens, how many of them are in its KV range, and the text made so far."""

from __future__ import annotations

import math
import time
from collections.abc import Set
from typing import Protocol

import numpy as np

from ellm.serving.output import Metrics, Output
from ellm.serving.ranges import PromptCache
from ellm.serving.sampling import SamplingParams
from ellm.system.errors import InputError
from ellm.system.memory import Mapping
from ellm.text.stops import StopMatcher


class Decoder(Protocol):
    """Turns tokens into text as they come."""

    def push(self, token: int, /) -> str:
        """Text that this token completes."""

    def finish(self) -> str:
        """What is left when no more tokens come."""


class Request:
    """A prompt of [1, context] tokens that is being continued."""

    def __init__(
        self,
        prompt: np.ndarray,
        params: SamplingParams,
        context: int,
        decoder: Decoder,
        eos_ids: Set[int],
        cache: PromptCache | None = None,
    ):
        self.prompt_length = self.length = len(prompt)
        longest = max(context, self.length + 1)  # a prompt that fills the context still has a next token
        self.limit = longest if params.max_tokens is None else min(longest, self.length + params.max_tokens)
        self.tokens = np.empty(self.limit, np.int32)
        self.tokens[: self.length] = prompt
        self.sampling = params.record(self.tokens.ctypes.data)
        self.eos_ids = frozenset() if params.ignore_eos else eos_ids
        self.decoder = decoder
        self.stop = StopMatcher(params.stops)
        self.cache = cache
        self.range: Mapping | None = None
        self.slot = -1
        self.cached = 0  # tokens whose keys and values are in the range
        self.expanded = 0  # tokens whose keys and values lie expanded in the range besides
        self.rows = 0  # tokens in the step under way
        self.done = False
        self.error: BaseException | None = None
        self.finish_reason: str | None = None
        self.logprobs: list[float] = []
        self.pieces: list[str] = []
        self.metrics = Metrics()
        self._begun = self._first = 0.0

    def cached_prefix(self) -> int:
        """Tokens whose keys and values the prompt cache has. The last one is always computed, for its logits."""
        if self.cache is None:
            return 0
        return min(self.cache.common_prefix(self.tokens[: self.length]), self.length - 1)

    def begin(self) -> None:
        """The range is there: the first step is next."""
        self.cached = self.cached_prefix()
        self.metrics.cached_tokens = self.cached
        self._begun = time.perf_counter()

    def accept(self, token: int, logprob: float) -> None:
        """Append a sampled token, and end if it is the last, or if the logits that it was drawn from are NaN."""
        if math.isnan(logprob):
            broken = "its weights are broken, or too large for the precision that it is computed in"
            self.done, self.error = True, InputError(f"the model's logits after {self.length} tokens are NaN: {broken}")
            return
        self.tokens[self.length] = token
        self.length += 1
        self.logprobs.append(logprob)
        now = time.perf_counter()
        if len(self.logprobs) == 1:
            self._first = now
            self.metrics.prefill_seconds = now - self._begun
        self.metrics.decode_seconds = now - self._first
        if token in self.eos_ids:
            self._end("stop")
            return
        self._emit(self.decoder.push(token))
        if self.stop.matched:
            self._end("stop")
        elif self.length == self.limit:
            self._end("length")

    def _emit(self, text: str) -> None:
        text = self.stop.push(text) if text else ""
        if text:
            self.pieces.append(text)

    def _end(self, reason: str) -> None:
        if not self.stop.matched:
            self._emit(self.decoder.finish())
            if self.stop.matched:
                reason = "stop"
            else:
                self.pieces.append(self.stop.finish())
        self.finish_reason = reason
        self.done = True

    def output(self) -> Output:
        """The answer so far. Raises what the step raised if the request failed."""
        if self.error is not None:
            raise self.error
        tokens = self.tokens[: self.length].tolist()
        return Output(
            text="".join(self.pieces),
            token_ids=tokens[self.prompt_length :],
            prompt_token_ids=tokens[: self.prompt_length],
            finish_reason=self.finish_reason,
            logprobs=list(self.logprobs),
            metrics=self.metrics,
        )
