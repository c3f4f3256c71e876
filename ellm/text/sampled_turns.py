"""The tokens that a model drew in past turns: a text that comes back need not be cut into the same ones again."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Sequence

import numpy as np

from ellm.text.token_stream import Decoder, TokenStream

MOST_TOKENS = 1 << 22
MOST_PROMPTS = 4096
MOST_ANSWERS = 16  # to one prompt


class SampledTurns:
    """Answers by the prompts that they were drawn behind; the ones that were used last are kept.

    May be used from several threads at once.
    """

    def __init__(self, decoder: Decoder, whole: Collection[int], most_tokens: int = MOST_TOKENS):
        """Remember up to `most_tokens` tokens. `whole`: ids that are found in a text before anything else."""
        self._decoder, self._whole = decoder, frozenset(whole)
        self._most_tokens, self._tokens = most_tokens, 0
        self._lock = threading.Lock()
        self._answers: OrderedDict[bytes, list[list[int]]] = OrderedDict()
        self._lengths: dict[bytes, int] = {}  # of the prompts
        self._counts: Counter[int] = Counter()  # how many prompts are that long

    def add(self, prompt: Sequence[int] | np.ndarray, answer: Sequence[int] | np.ndarray, salt: bytes = b"") -> None:
        """Remember what was drawn behind a prompt. Only those who know the salt will find it.

        The end of the prompt is remembered with it: where both are one text, it may be cut into other tokens, but never
        before one that is found in a text before anything else.
        """
        ids = np.asarray(prompt).tolist()
        known = next((at for at in range(len(ids), 0, -1) if ids[at - 1] in self._whole), len(ids))
        prompt, drawn = ids[:known], ids[known:] + np.asarray(answer).tolist()
        key = hashlib.sha256(salt + b"\0" + _bytes(prompt)).digest()
        with self._lock:
            answers = self._answers.setdefault(key, [])
            if drawn in answers:
                return
            if key not in self._lengths:
                self._lengths[key] = len(prompt)
                self._counts[len(prompt)] += 1
            answers.append(drawn)
            self._tokens += len(drawn)
            if len(answers) > MOST_ANSWERS:
                self._tokens -= len(answers.pop(0))
            self._answers.move_to_end(key)
            while self._answers and (self._tokens > self._most_tokens or len(self._answers) > MOST_PROMPTS):
                self._forget()

    def restore(self, prompt: Sequence[int], salt: bytes = b"") -> list[int]:
        """The tokens of a prompt, with those that were drawn where its text is that of a past turn."""
        ids, at = list(prompt), 0
        state = hashlib.sha256(salt + b"\0")
        with self._lock:
            lengths = sorted(self._counts)
        for length in lengths:
            if length >= len(ids):
                break
            state.update(_bytes(ids[at:length]))
            at = length
            with self._lock:
                answers = list(self._answers.get(key := state.digest(), ()))
                if answers:
                    self._answers.move_to_end(key)
            found = [self._shared(ids[:length], answer, ids[length:]) for answer in answers]
            if found:
                ours, theirs, answer = max(found, key=lambda one: one[1])
                ids = ids[:length] + answer[:ours] + ids[length + theirs :]
        return ids

    def _forget(self) -> None:
        key, answers = self._answers.popitem(last=False)
        self._tokens -= sum(map(len, answers))
        length = self._lengths.pop(key)
        self._counts[length] -= 1
        if not self._counts[length]:
            del self._counts[length]

    def _shared(self, before: list[int], answer: list[int], text: list[int]) -> tuple[int, int, list[int]]:
        """How many tokens of an answer, and of what follows a prompt, are the same text; and the answer."""
        same = next((at for at, (a, b) in enumerate(zip(answer, text, strict=False)) if a != b), None)
        if same is None:
            same = min(len(answer), len(text))
            return same, same, answer
        walk = _Walk(self._decoder, self._whole, before + answer[:same], answer[same:], text[same:])
        ours, theirs = walk.shared()
        return same + ours, same + theirs, answer


class _Walk:
    """Goes along two lists of tokens as long as they are the same text."""

    def __init__(self, decoder: Decoder, whole: frozenset[int], before: list[int], *lists: list[int]):
        self._whole, self._lists = whole, lists
        self._streams = [TokenStream(decoder, skip_special=False, prompt=before) for _ in lists]
        self._at = [0, 0]
        self._ahead = ["", ""]  # text that the other list does not have yet

    def shared(self) -> tuple[int, int]:
        """The longest beginnings with the same text, in tokens."""
        found = 0, 0
        while self._go_on():
            if self._even:
                found = self._at[0], self._at[1]
        return found

    @property
    def _even(self) -> bool:
        return not (any(self._ahead) or any(stream.held for stream in self._streams))

    def _go_on(self) -> bool:
        """Take a token of the list that is behind, or of both if it is one that no other text stands for."""
        side = int(len(self._ahead[0]) > len(self._ahead[1]))
        tokens = [one[at] if at < len(one) else None for one, at in zip(self._lists, self._at, strict=True)]
        if tokens[side] is None:
            return False
        if tokens[side] in self._whole:
            return self._even and tokens[0] == tokens[1] and self._take(0, tokens[0]) and self._take(1, tokens[1])
        return self._take(side, tokens[side])

    def _take(self, side: int, token: int | None) -> bool:
        assert token is not None
        self._ahead[side] += self._streams[side].push(token)
        self._at[side] += 1
        length = min(map(len, self._ahead))
        same = token in self._whole or self._ahead[0][:length] == self._ahead[1][:length]
        self._ahead = [text[length:] for text in self._ahead]
        return same


def _bytes(ids: Sequence[int] | np.ndarray) -> bytes:
    return np.asarray(ids, np.int32).tobytes()
