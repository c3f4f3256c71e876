"""Log probabilities of an answer's tokens, as OpenAI's two kinds of completions have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from ellm.server.answer import Answer
from ellm.server.service import Service
from ellm.server.validation import Record
from ellm.serving.output import Drawn, Output

_LEAST = -9999.0  # stands for minus infinity, which JSON has not


class TopLogprob(Record):
    """A token that was likely in the place of another."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token of an answer."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Record):
    """Of a conversation's answer: all that was generated, reasoning included."""

    content: list[TokenLogprob]
    refusal: None = None


class TextLogprobs(Record):
    """Of a continued prompt; with `echo` those of the prompt come first, whose first token has none."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class ChatReader:
    """Gives the log probabilities of the tokens that have come since it was asked before."""

    def __init__(self, service: Service, answer: Answer):
        self._service, self._answer, self._read = service, answer, 0

    def more(self) -> ChatLogprobs:
        """Those of the new tokens."""
        drawn = self._answer.drawn(self._read)
        self._read += len(drawn.token_ids)
        tops = drawn.top_logprobs or [{}] * len(drawn.token_ids)
        return ChatLogprobs(
            content=[
                TokenLogprob(**self._fields(token, number), top_logprobs=self._likeliest(top))
                for token, number, top in zip(drawn.token_ids, drawn.logprobs, tops, strict=True)
            ]
        )

    def _likeliest(self, top: Mapping[int, float]) -> list[TopLogprob]:
        return [TopLogprob(**self._fields(token, number)) for token, number in top.items()]

    def _fields(self, token: int, number: float) -> dict:
        told = {"token": self._service.token_text(token), "bytes": list(self._service.token_bytes.of(token))}
        return told | {"logprob": max(number, _LEAST)}


def of_text(service: Service, drawn: Drawn, prompt: Output | None, offset: int = 0) -> tuple[TextLogprobs, int]:
    """Of generated tokens, behind those of the prompt that an output has, if one is given; `offset`: of the first
    text. Also the offset behind them."""
    ids: Sequence[int] = drawn.token_ids
    numbers: Sequence[float | None] = drawn.logprobs
    tops: Sequence[Mapping[int, float] | None] = drawn.top_logprobs or [{}] * len(ids)
    if prompt is not None:
        ids = [*prompt.prompt_token_ids, *ids]
        numbers = [*(prompt.prompt_logprobs or ()), *numbers]
        tops = [*(prompt.prompt_top_logprobs or ()), *tops]
    texts = [service.token_text(token) for token in ids]
    lengths = [_characters(service.token_bytes.of(token)) for token in ids]
    told = TextLogprobs(
        text_offset=[*accumulate(lengths[:-1], initial=offset)] if ids else [],
        tokens=texts,
        token_logprobs=[None if number is None else max(number, _LEAST) for number in numbers],
        top_logprobs=[
            None if top is None or number is None else _listed(service, top, text, number)
            for top, text, number in zip(tops, texts, numbers, strict=True)
        ],
    )
    return told, offset + sum(lengths)


def _characters(token: bytes) -> int:
    """How many begin in it."""
    return sum(byte & 0xC0 != 0x80 for byte in token)


def _listed(service: Service, top: Mapping[int, float], text: str, number: float) -> dict[str, float]:
    """The likeliest tokens, and the one that is there."""
    found = {service.token_text(token): max(value, _LEAST) for token, value in top.items()}
    return found | {text: max(number, _LEAST)}
