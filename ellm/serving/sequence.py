"""A sequence of tokens on its way through steps: what is known of it, and how far that is computed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ellm.kernels.contract import TOKEN_NUMBER
from ellm.serving.constraint import Constraint
from ellm.serving.drafter import Trail
from ellm.serving.lookup import Lookup
from ellm.serving.policy import Terms
from ellm.serving.pooling import Pooling
from ellm.serving.prefixes import Block
from ellm.serving.ranges import Range
from ellm.serving.sampling import SamplingParams


class Sequence:
    """A prompt of [1, context] token ids that is being continued, to `limit` tokens at most.

    Only sequences of the same `salt` may read what it computes. `ends` are the tokens that may end it, `constraint` is
    what its answer must be like. With `pooling`, which takes its hidden states in, nothing follows the prompt.
    """

    def __init__(
        self,
        prompt: np.ndarray,
        params: SamplingParams,
        context: int,
        salt: bytes = b"",
        ends: Iterable[int] = (),
        constraint: Constraint | None = None,
        pooling: Pooling | None = None,
    ):
        self.prompt_length = self.length = len(prompt)
        longest = max(context, self.length + 1)  # a prompt that fills the context still has a next token
        self.limit = longest if params.max_tokens is None else min(longest, self.length + params.max_tokens)
        self.tokens = np.empty(self.limit, np.int32)  # the first `length` are known
        self.tokens[: self.length] = prompt
        self.logprobs = np.empty(self.limit - self.length, np.float32)  # of the tokens behind the prompt
        self.drawn_first = np.zeros(self.limit - self.length, bool)  # which of these were the first of their step
        self.drafted = 0  # tokens that were verified beside the known ones
        self.lookup: Lookup | None = None  # what drafts them
        self.trail: Trail | None = None  # what prediction heads, which draft too, are still to see of it
        self.constraint, self.pooling = constraint, pooling
        self.scores_prompt = params.prompt_logprobs is not None
        self.prompt_logprobs = np.empty(self.length if self.scores_prompt else 0, np.float32)  # the first has none
        self.likely = params.likely  # tokens that are listed for each, with their log probabilities
        self.prompt_top = np.empty((len(self.prompt_logprobs), self.likely), TOKEN_NUMBER)
        self.top = np.empty((len(self.logprobs), self.likely), TOKEN_NUMBER)
        self.least = self.length + min(params.min_tokens, self.limit)  # tokens before which none of `ends` is drawn
        self.kept_biases = len(params.logit_bias or ())  # of `biases`, from there on
        self.ends = sorted(ends)
        self.biases = params.biases(self.ends if params.min_tokens else ())
        self.sampling = params.record(self.tokens.ctypes.data)
        self.sampling["prompt_len"] = self.prompt_length
        self.sampling["bias"], self.sampling["bias_len"] = self.biases.ctypes.data, len(self.biases)
        self.plain = not (self.likely or len(self.biases) or constraint)  # rows differ in their position alone
        self.terms = Terms()
        self.salt = salt
        self.range: Range | None = None
        self.blocks: np.ndarray = np.empty(0, np.uint64)  # where its blocks of positions are
        self.tip: Block | None = None  # the last of its whole blocks that others may read
        self.tail: Block | None = None  # the block behind, as far as others may read it
        self.slot = -1
        self.cached = 0  # tokens whose keys and values are there
        self.foreseen = False  # while it waits, others' were looked for
        self.first_hit = -1  # of these, how many others had computed when it first got a range
        self.entered = 0  # a number for each time that a sequence got a range
        self.compared: dict[int, int] = {}  # with how many of its first tokens another began, by the other's number
        self.restored = -1  # the last of its blocks that was read from a file
        self.first_whole = 0  # blocks of the range that were begun by others
        self.left_behind: dict[int, int] = {}  # by window: its first blocks, whose caches were given back
        self.prompt_only_bytes = 0.0  # of the range that serve the prompt alone
        self.done = False
        self.error: BaseException | None = None

    @property
    def left(self) -> int:
        """Known tokens that are still to be computed."""
        return self.length - self.cached

    @property
    def reusable(self) -> int:
        """Known tokens that others may have computed for it: those before the first whose row's result is wanted."""
        if self.pooling is not None:
            return self.pooling.next
        return 0 if self.scores_prompt else self.length - 1

    @property
    def scored(self) -> int:
        """From `cached` on, how many known tokens want the logits of their rows, as the next one is to be scored."""
        return max(0, self.prompt_length - 1 - self.cached) if self.scores_prompt else 0

    def score(self, at: int, logprobs: np.ndarray, top: np.ndarray) -> None:
        """Note the log probabilities of the tokens of the prompt from `at` on. Doing it again changes nothing."""
        rows = slice(at, at + len(logprobs))
        self.prompt_logprobs[rows], self.prompt_top[rows] = logprobs, top[:, : self.likely]

    def append(self, at: int, tokens: list[int], logprobs: list[float], top: np.ndarray | None = None) -> None:
        """Put the tokens that follow the first `at` there. Doing it again changes nothing.

        `top`: the likeliest tokens in the place of each, TOKEN_NUMBER [n, `likely` or more].
        """
        behind = at - self.prompt_length
        for i, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):  # few: a slice takes longer
            self.tokens[at + i], self.logprobs[behind + i] = token, logprob
        if self.likely and top is not None:
            self.top[behind : behind + len(tokens)] = top[:, : self.likely]
        self.drawn_first[behind] = True
        self.length = at + len(tokens)

    def end(self, length: int) -> None:
        """It ends with the first `length` tokens, though more may be known; the last of them need not be computed."""
        self.length, self.cached = length, min(self.cached, length - 1)
        self.done = True

    def fail(self, error: BaseException) -> None:
        """End it with an error."""
        self.error, self.done = error, True
