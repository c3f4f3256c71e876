"""What an answer is made of: as it was generated, and as it is shown."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["answer", "reasoning"]


class Unit(NamedTuple):
    """Text that was generated, or one of the tokens that are not text: special tokens and marks of reasoning."""

    text: str
    is_token: bool = False


class Piece(NamedTuple):
    """Text of an answer, and what it is."""

    text: str
    kind: Kind
