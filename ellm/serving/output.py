"""What a request gives back."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Metrics:
    """Where the time of a request went, in seconds; requests that run together share their steps."""

    cached_tokens: int = 0  # tokens of the prompt that were in a prompt cache already
    prefill_seconds: float = 0.0  # from the request's first step to its first token
    decode_seconds: float = 0.0  # from its first token to its last


@dataclass
class Output:
    """The answer to one prompt."""

    text: str
    token_ids: list[int]  # what was generated, with the end of sequence token if there is one
    prompt_token_ids: list[int]
    finish_reason: str | None  # "stop": end of sequence or stop string; "length": max_tokens or context; None: cut off
    logprobs: list[float]  # of each generated token: log softmax of the raw logits
    metrics: Metrics = field(default_factory=Metrics)
