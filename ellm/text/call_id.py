"""Ids of calls of tools."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np


class CallIds:
    """Ids that tell the calls of a conversation apart: 9 letters and digits, as Mistral's templates want them.

    They depend on the prompt and the call's place in the answer, so an answer that is read again has the same ones.
    """

    def __init__(self, prompt: Sequence[int]):
        self._prompt = prompt

    @cached_property
    def _seed(self) -> bytes:
        return hashlib.sha256(np.asarray(self._prompt, np.int64).tobytes()).digest()

    def __call__(self, index: int | None) -> str:
        """The id of one of the answer's calls."""
        found = hashlib.sha256(self._seed + str(index).encode()).digest()
        return base64.b32encode(found).decode()[:9].lower()
