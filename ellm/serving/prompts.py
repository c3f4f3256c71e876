"""Prompts as token ids that a model can take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ellm.compiled import Compiled
from ellm.system.errors import InputError, PromptError, PromptTooLong

Prompt = str | Sequence[int]


class Prompts:
    """Reads prompts for a compiled model with a vocabulary of `vocab`; `encode` makes tokens of a text."""

    def __init__(self, encode: Callable[[str], Sequence[int]], vocab: int, compiled: Compiled):
        self._encode, self._vocab, self._compiled = encode, vocab, compiled

    def tokens(self, prompt: Prompt | np.ndarray) -> np.ndarray:
        """A text or token ids as int32 [T]. Raises InputError if there is none, or more than the context has."""
        ids = self._encode(prompt) if isinstance(prompt, str) else prompt
        if not isinstance(ids, Sequence | np.ndarray):
            raise PromptError(f"a prompt must be a text or a flat list of token ids, not {type(ids).__name__}")
        try:
            tokens = np.asarray(ids)
        except ValueError as error:
            raise PromptError(f"a prompt must be a text or a flat list of token ids: {error}") from error
        if tokens.size == 0:
            raise PromptError("the prompt is empty")
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise PromptError(f"a prompt must be a text or a flat list of token ids, not {tokens.dtype} {tokens.shape}")
        context = self._compiled.context
        if len(tokens) > context:
            longest = self._compiled.source.model.longest
            more = f" of the model's {longest}" if longest > context else ""
            raise PromptTooLong(f"the prompt has {len(tokens)} tokens, the context has {context}{more}")
        self.check_ids(tokens, kind=PromptError)
        return np.ascontiguousarray(tokens, np.int32)

    def check_ids(self, ids: np.ndarray, where: str = "", kind: type[InputError] = InputError) -> None:
        """Raise `kind`, which begins with `where`, if one of the ids is not in the vocabulary."""
        wrong = ids[(ids < 0) | (ids >= self._vocab)]
        if len(wrong):
            raise kind(f"{where}token id {wrong[0]} is not in the vocabulary of {self._vocab}")


def listed(prompts: Any) -> list[Any]:
    """One or many prompts as a list of them."""
    if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable):
        return [prompts]
    found = list(prompts)
    return [found] if found and isinstance(found[0], int | np.integer) else found
