"""Token ids to text, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

_REPLACEMENT = "\ufffd"
_SEED = 32  # ids of a prompt that are looked through for where a character begins


class Decoder(Protocol):
    """Whoever turns ids into text."""

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of token ids."""


class TokenStream:
    """Turns ids into text one by one; what all calls return, put together, is the text of all ids.

    Text is held back while it may be the first bytes of an unfinished UTF-8 character. Only the ids since the last
    piece are decoded again, with that piece before them, since decoders treat the first id of a text specially. The
    first piece has the end of `prompt` before it, so that the text goes on where the prompt ends.
    """

    def __init__(self, decoder: Decoder, skip_special: bool = True, prompt: Sequence[int] = ()):
        self._decoder = decoder
        self._skip_special = skip_special
        self._ids: list[int] = []  # the ids of the last piece of text, then those that are held back
        self._given_text = ""
        for length in range(1, min(len(prompt), _SEED) + 1):
            self._ids = list(map(int, prompt[-length:]))
            self._given_text = decoder.decode(self._ids, skip_special)
            if self._given_text and not self._given_text.startswith(_REPLACEMENT):
                break
        self._given = len(self._ids)  # ids of the last piece

    @property
    def held(self) -> bool:
        """Whether ids have come whose text was not given."""
        return len(self._ids) > self._given

    def push(self, token_id: int) -> str:
        """The text that this id completes, or an empty string."""
        self._ids.append(token_id)
        text = self._decoder.decode(self._ids, self._skip_special)
        if text.endswith(_REPLACEMENT) or len(text) <= len(self._given_text):
            return ""
        piece = text[len(self._given_text) :]
        self._ids = self._ids[self._given :]
        self._given = len(self._ids)
        self._given_text = self._decoder.decode(self._ids, self._skip_special)
        return piece

    def finish(self) -> str:
        """The text still held back; an unfinished character becomes U+FFFD. Later ids go on behind it."""
        text = self._decoder.decode(self._ids, self._skip_special)
        piece = text[len(self._given_text) :]
        self._given, self._given_text = len(self._ids), text
        return piece
