"""Requests to a server whose answers are known to the last bit: asked_alone.py makes them."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Known:
    """What to post where, and text and log probabilities of each answer."""

    path: str
    body: dict
    texts: list
    logprobs: list


def save(path, known):
    path.write_text(json.dumps([asdict(one) for one in known]))


def read(path):
    return [Known(**one) for one in json.loads(path.read_text())]


class Heard:
    """What has come of the answers to a request, whole or in parts."""

    def __init__(self, known):
        self._known = known
        self.texts, self.logprobs = [""] * len(known.texts), [[] for _ in known.texts]

    def add(self, reply):
        """A reply, or one event of it."""
        for choice in reply.get("choices", ()):
            at, scores = choice["index"], choice.get("logprobs") or {}
            said = choice.get("message") or choice.get("delta") or choice
            self.texts[at] += said.get("content") or said.get("text") or ""
            self.logprobs[at] += scores.get("token_logprobs") or [one["logprob"] for one in scores.get("content") or ()]

    @property
    def right(self):
        """Whether it is all of it, bit for bit."""
        return (self.texts, self.logprobs) == (self._known.texts, self._known.logprobs)

    @property
    def begins_right(self):
        """Whether it is a beginning of it."""
        pairs = zip((*self.texts, *self.logprobs), (*self._known.texts, *self._known.logprobs), strict=True)
        return all(whole[: len(part)] == part for part, whole in pairs)
