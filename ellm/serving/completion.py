"""The answer to a prompt as it comes: the text of a sequence's tokens, and which of them is the last."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence, Set
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ellm.serving.constraint import Constraint
from ellm.serving.entry import Entry
from ellm.serving.output import Drawn, Output, ToolCall
from ellm.serving.sampling import SamplingParams
from ellm.serving.sequence import Sequence as TokenSequence
from ellm.system.errors import InputError
from ellm.text.families import Chat
from ellm.text.piece import Kind, Piece
from ellm.text.reader import Reader

if TYPE_CHECKING:
    from llguidance import LLMatcher


class Vocabulary(Protocol):
    """What a tokenizer knows of the tokens of an answer."""

    @property
    def eos_ids(self) -> Set[int]:
        """Tokens that end an answer."""

    @property
    def writes_messages(self) -> bool:
        """Whether a grammar of calls is one of the reasoning before them too."""

    def reader(self, prompt: Sequence[int], stops: Sequence[str], chat: Chat | None, include_stop: bool, /) -> Reader:
        """A reader of the answer to a prompt, which is a chat's or, if it is None, is continued as it is."""


class Completion(Entry):
    """Continues a prompt of [1, context] token ids: `sequence` holds the tokens, `pieces` the text so far.

    `chat`: the prompt is a conversation in the words of the chat template, and the answer is taken apart.
    `matcher`: what the answer is to be like. `index`: which of the answers to the prompt it is.
    `remember` is called with prompt and answer when the answer is whole.
    """

    remember: Callable[[np.ndarray, np.ndarray], None] | None = None

    def __init__(
        self,
        prompt: np.ndarray,
        params: SamplingParams,
        context: int,
        vocabulary: Vocabulary,
        chat: Chat | None = None,
        salt: bytes = b"",
        matcher: LLMatcher | None = None,
        index: int = 0,
    ):
        self._params, self._index = params, index
        self._stop_ids = frozenset(params.stop_token_ids or ())
        self._ends = {*self._stop_ids, *(() if params.ignore_eos else vocabulary.eos_ids)}
        ids, constraint = prompt.tolist(), None
        if matcher is not None:
            free = None if chat and chat.must_call and vocabulary.writes_messages else chat  # what is before the answer
            constraint = Constraint(matcher, vocabulary.eos_ids, lambda: vocabulary.reader(ids, (), free, False))
        super().__init__(TokenSequence(prompt, params, context, salt, self._ends, constraint))
        self._first = 0.0
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None
        self.pieces: list[Piece] = []
        self._read = self.sequence.prompt_length  # tokens that are in the text
        self._reader = vocabulary.reader(ids, params.stops, chat, params.include_stop_str_in_output)

    @property
    def may_end(self) -> bool:
        """Whether a token that has come may be the last one: any that may complete a stop string."""
        sequence = self.sequence
        if sequence.length == sequence.limit or self._params.stops:
            return True
        return not self._ends.isdisjoint(sequence.tokens[self._read : sequence.length].tolist())

    def read(self) -> bool:
        """Add the tokens that have come to the text, and end the sequence with the last one; whether text has come.

        It also fails if the logits that a token was drawn from are NaN.
        """
        sequence, before = self.sequence, len(self.pieces)
        if self._read == sequence.length or self.finish_reason is not None:
            return False
        self._time()
        while self._read < sequence.length and self.finish_reason is None and sequence.error is None:
            self._read += 1
            self._take(self._read - 1)
        return len(self.pieces) > before

    def end(self) -> None:
        """Nothing comes any more."""
        if self.remember is not None and self.finish_reason is not None:
            try:
                self.remember(*np.split(self.sequence.tokens[: self._read], [self.sequence.prompt_length]))
            except Exception as error:  # who waits must hear of the end
                self.sequence.fail(error)
        super().end()

    def output(self) -> Output:
        """The answer so far. Raises what the step raised if the sequence failed."""
        sequence = self.sequence
        if sequence.error is not None:
            raise sequence.error
        read = self._read  # more may come meanwhile
        generated = read - sequence.prompt_length
        drawn = self._drawn(0, generated)
        self.metrics.steps = int(sequence.drawn_first[:generated].sum())
        self.metrics.drafted_tokens, self.metrics.accepted_tokens = sequence.drafted, generated - self.metrics.steps
        return Output(
            text=self._text("answer"),
            token_ids=drawn.token_ids,
            prompt_token_ids=sequence.tokens[: sequence.prompt_length].tolist(),
            finish_reason=self.finish_reason,
            logprobs=drawn.logprobs,
            metrics=self.metrics,
            reasoning=self._text("reasoning") or None,
            tool_calls=ToolCall.of(self.pieces),
            stop_reason=self.stop_reason,
            index=self._index,
            top_logprobs=drawn.top_logprobs,
            **self._of_prompt(),
        )

    def drawn(self, first: int) -> Drawn:
        """The generated tokens so far, from the `first` on."""
        return self._drawn(first, self._read - self.sequence.prompt_length)

    def _drawn(self, first: int, end: int) -> Drawn:
        sequence, rows = self.sequence, slice(first, end)
        return Drawn(
            sequence.tokens[sequence.prompt_length :][rows].tolist(),
            sequence.logprobs[rows].tolist(),
            _listed(sequence.top[rows], self._params.logprobs),
        )

    def _of_prompt(self) -> dict[str, Any]:
        """What the output says of the prompt's tokens, when all of them are scored."""
        sequence, count = self.sequence, self._params.prompt_logprobs
        if count is None or sequence.length == sequence.prompt_length:
            return {}
        listed = _listed(sequence.prompt_top[1:], count) or []
        return {
            "prompt_logprobs": [None, *sequence.prompt_logprobs[1:].tolist()],
            "prompt_top_logprobs": [None, *listed],
        }

    def _text(self, kind: Kind) -> str:
        return "".join(piece.text for piece in self.pieces if piece.kind == kind)

    def _time(self) -> None:
        now = time.perf_counter()
        if not self._first:
            self._first = now
            self.metrics.prefill_seconds = now - self._begun
        self.metrics.decode_seconds = now - self._first

    def _take(self, at: int) -> None:
        sequence = self.sequence
        first = at == sequence.prompt_length
        if math.isnan(sequence.logprobs[at - sequence.prompt_length]) or (first and self._prompt_is_broken()):
            broken = "its weights are broken, or too large for the precision that it is computed in"
            sequence.fail(InputError(f"the model's logits after {at} tokens are NaN: {broken}"))
            return
        token = int(sequence.tokens[at])
        looking = at >= sequence.prompt_length + self._params.min_tokens
        if token in self._ends:
            if token in self._stop_ids:
                self.stop_reason = token
                if self._params.include_stop_str_in_output:
                    self.pieces += self._reader.push(token, False)
            self._end("stop")
            return
        thought = self._reader.in_reasoning
        self.pieces += self._reader.push(token, looking)
        self.metrics.reasoning_tokens += thought and self._reader.in_reasoning
        if self._reader.stopped:
            self.stop_reason = self._reader.stop
            self._end("stop")
        elif at + 1 == sequence.limit:
            self._end("length")

    def _prompt_is_broken(self) -> bool:
        return bool(np.isnan(self.sequence.prompt_logprobs[1:]).any())

    def _end(self, reason: str) -> None:
        self.pieces += self._reader.finish()
        calls = reason == "stop" and not self._reader.stopped and ToolCall.of(self.pieces)
        self.finish_reason = "stop" if self._reader.stopped else "tool_calls" if calls else reason
        self.sequence.end(self._read)


def _listed(top: np.ndarray, count: int | None) -> list[dict[int, float]] | None:
    """The first `count` tokens of each row with their log probabilities."""
    if count is None:
        return None
    ids, numbers = top["token"][:, :count].tolist(), top["number"][:, :count].tolist()
    return [dict(zip(*row, strict=True)) for row in zip(ids, numbers, strict=True)]
