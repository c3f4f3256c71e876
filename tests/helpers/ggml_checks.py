"""What tests/golden/ggml_ids.json holds."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ggml_vocabularies import SPECIAL
from odd_texts import odd_texts

FILE = Path(__file__).parents[1] / "golden" / "ggml_ids.json"
LENGTH = 4  # of a check


def texts() -> list[str]:
    """The texts that are checked."""
    return list(odd_texts(300, seed=1, special=SPECIAL))


def check(ids: list[int], text: str) -> str:
    """Some digits of the hash of token ids and of what all but the first are decoded to, but for spaces before it."""
    return hashlib.sha256(f"{ids} {text.lstrip(' ')}".encode()).hexdigest()[:LENGTH]
