"""What a request gives back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ellm.text.piece import Piece
from ellm.text.strict_json import is_object


@dataclass
class Metrics:
    """Where the time of a request went, in seconds; requests that run together share their steps."""

    cached_tokens: int = 0  # tokens of the prompt that were in the prefix cache already
    prefill_seconds: float = 0.0  # from the request's first step to its first token
    decode_seconds: float = 0.0  # from its first token to its last
    reasoning_tokens: int = 0  # generated tokens that are reasoning
    steps: int = 0  # that the generated tokens took, the prompt's last one with them
    drafted_tokens: int = 0  # that were verified
    accepted_tokens: int = 0  # of these: generated tokens beyond one a step


class ToolCall(NamedTuple):
    """A call of a tool that the model wants."""

    id: str
    name: str
    arguments: str  # a JSON object, as text

    @classmethod
    def of(cls, pieces: Iterable[Piece]) -> list[ToolCall]:
        """The calls that pieces make up; a call that was cut or broken off is none."""
        heads: dict[int | None, Piece] = {}
        arguments: dict[int | None, list[str]] = {}
        for piece in pieces:
            if piece.kind == "tool":
                heads.setdefault(piece.index, piece)
                arguments.setdefault(piece.index, []).append(piece.text)
        calls = [cls(head.id or "", head.name or "", "".join(arguments[index])) for index, head in heads.items()]
        return [call for call in calls if is_object(call.arguments)]


class Drawn(NamedTuple):
    """Generated tokens that follow each other, with what `Output` says of each."""

    token_ids: list[int]
    logprobs: list[float]
    top_logprobs: list[dict[int, float]] | None


@dataclass
class Output:
    """The answer to one prompt.

    Of a chat, `text` is the answer alone, `reasoning` what the model thought before it, or None, and `tool_calls` what
    it wants of the tools it was given. Of a plain prompt, `text` is everything that was generated.
    """

    text: str
    token_ids: list[int]  # what was generated, with the token that ended it if there is one
    prompt_token_ids: list[int]
    # "stop": end of turn or stop string; "tool_calls": end of turn with calls; "length": max_tokens or context;
    # None: cut off
    finish_reason: str | None
    logprobs: list[float]  # of each generated token: log softmax of the raw logits
    metrics: Metrics = field(default_factory=Metrics)
    reasoning: str | None = None
    tool_calls: list[ToolCall] = field(default_factory=list)
    stop_reason: int | str | None = None  # the stop string, or the one of stop_token_ids, that ended it
    index: int = 0  # which of the `n` answers to its prompt it is
    top_logprobs: list[dict[int, float]] | None = None  # of each generated token: the likeliest in its place, in order
    prompt_logprobs: list[float | None] | None = None  # of each token of the prompt; the first has none
    prompt_top_logprobs: list[dict[int, float] | None] | None = None  # of each token of the prompt; nor has this one

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message for the next turn of a conversation; what of it to show is the template's choice."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            message["tool_calls"] = [
                {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
                for id, name, arguments in self.tool_calls
            ]
        if self.reasoning is not None:  # by the names of most templates, and of gpt-oss
            message |= {"reasoning_content": self.reasoning, "thinking": self.reasoning}
        return message
