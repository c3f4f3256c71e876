"""What a request gives back."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Metrics:
    """Where the time of a request went, in seconds; requests that run together share their steps."""

    cached_tokens: int = 0  # tokens of the prompt that a prompt cache held already
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


class StopMatcher:
    """Finds stop strings in text that comes in pieces, and holds back what may turn out to be the start of one."""

    def __init__(self, stops: list[str]):
        self.stops = stops
        self.matched = False
        self._held = ""
        self._longest = max(map(len, stops), default=0)

    def push(self, text: str) -> str:
        """Text that can be shown; once a stop string has matched, the text before it."""
        text = self._held + text
        found = [at for at in map(text.find, self.stops) if at >= 0]
        if found:
            self.matched, self._held = True, ""
            return text[: min(found)]
        for n in range(min(len(text), self._longest - 1), 0, -1):
            if any(stop.startswith(text[-n:]) for stop in self.stops):
                self._held = text[-n:]
                return text[:-n]
        self._held = ""
        return text

    def finish(self) -> str:
        """What is still held back when the text has ended."""
        text, self._held = self._held, ""
        return text
