"""What does the work of a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from tokenizers import AddedToken


class Encoding(Protocol):
    """An encoded text."""

    @property
    def ids(self) -> list[int]:
        """Its token ids."""


class Backend(Protocol):
    """What is used of `tokenizers.Tokenizer`, so that another can stand in its place."""

    def encode(self, sequence: str, /, *, add_special_tokens: bool = True) -> Encoding:
        """Token ids of a text, with what the model expects around it or without."""

    def decode(self, ids: Sequence[int], /, *, skip_special_tokens: bool = True) -> str:
        """The text of token ids, without special tokens or with them."""

    def token_to_id(self, token: str, /) -> int | None:
        """The id of a token, or None."""

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        """Number of tokens."""

    def get_added_tokens_decoder(self) -> Mapping[int, AddedToken]:
        """The tokens that are found in a text before anything else, by id."""
