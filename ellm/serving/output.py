"""What a request gives back."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Metrics:
    """Where the time of a request went, in seconds; requests that run together share their steps."""

    cached_tokens: int = 0  # tokens of the prompt that were in a prompt cache already
    prefill_seconds: float = 0.0  # from the request's first step to its first token
    decode_seconds: float = 0.0  # from its first token to its last
    reasoning_tokens: int = 0  # generated tokens that are reasoning
    steps: int = 0  # that the generated tokens took, the prompt's last one with them
    drafted_tokens: int = 0  # that were verified
    accepted_tokens: int = 0  # of these: generated tokens beyond one a step


@dataclass
class Output:
    """The answer to one prompt.

    Of a chat, `text` is the answer alone and `reasoning` what the model thought before it, or None. Of a plain prompt,
    `text` is everything that was generated.
    """

    text: str
    token_ids: list[int]  # what was generated, with the token that ended it if there is one
    prompt_token_ids: list[int]
    finish_reason: str | None  # "stop": end of turn or stop string; "length": max_tokens or context; None: cut off
    logprobs: list[float]  # of each generated token: log softmax of the raw logits
    metrics: Metrics = field(default_factory=Metrics)
    reasoning: str | None = None

    @property
    def message(self) -> dict[str, str]:
        """The answer as a message for the next turn of a conversation; what of it to show is the template's choice."""
        message = {"role": "assistant", "content": self.text}
        if self.reasoning is not None:  # by the names of most templates, and of gpt-oss
            message |= {"reasoning_content": self.reasoning, "thinking": self.reasoning}
        return message
