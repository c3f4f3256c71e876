"""What an answer is made of: as it was generated, and as it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["answer", "reasoning", "tool", "rest"]


class Unit(NamedTuple):
    """Text that was generated, or one of the tokens that are not text: special tokens and marks of a family."""

    text: str
    is_token: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of an answer, and what it is.

    Attributes:
        text: of a tool call, more of its arguments, which are the text of a JSON object.
        kind: "answer", "reasoning", "tool" (a call), or "rest": what is none of them, such as a call that the end of
            the answer cut.
        index: which of the answer's calls it belongs to, from 0 on.
        name: of the call, in its first piece alone.
        id: of the call, in its first piece alone.
    """

    text: str
    kind: Kind
    index: int | None = None
    name: str | None = None
    id: str | None = None
