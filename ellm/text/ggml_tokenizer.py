"""Text to token ids and back as llama.cpp does it (src/llama-vocab.cpp)."""

from __future__ import annotations

import copy
import enum
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from tokenizers import AddedToken

from ellm.system.errors import InputError
from ellm.text.merges import LETTER_OF_BYTE, SPACE

_BYTE_OF_LETTER = {letter: byte for byte, letter in LETTER_OF_BYTE.items()}
_PIECES = 1 << 14  # bytes of tokens that are remembered
_MARK = re.compile("([\ud800-\udbff][\udc00-\udfff])")


class TokenType(enum.IntEnum):
    """What a token is, by the numbers of `tokenizer.ggml.token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Model(Protocol):
    """Makes token ids of a text without special tokens."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""


@dataclass(frozen=True)
class Encoding:
    """What `encode` returns, as the `tokenizers` package has it."""

    ids: list[int]


class GGMLTokenizer:
    """What `Tokenizer` needs of a backend, on the vocabulary of a GGUF file.

    Control, unknown and user-defined tokens are found in a text before anything else, the longest ones in the whole
    text first.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        types: Sequence[TokenType],
        ids: dict[str, int],
        model: Model,
        *,
        byte_level: bool,
        space_prefix: bool,
        bos_id: int | None = None,
        eos_id: int | None = None,
        strip_right: Collection[int] = (),
    ):
        """Wrap a model.

        Args:
            tokens: texts by id.
            types: by id.
            ids: which id a text has; tokens may have a text in common.
            model: what encodes the text between special tokens.
            byte_level: normal tokens are spelled in GPT-2's alphabet of bytes; otherwise U+2581 is a space in them.
            space_prefix: a text, and the text behind each special token, begins with a space more.
            bos_id: the token behind which decoding drops that space too.
            eos_id: what ends every text; None for nothing.
            strip_right: special tokens that swallow the white space behind them.
        """
        self._mark = ""
        self._tokens, self._types, self._ids, self._model = tokens, types, ids, model
        self._byte_level, self._space_prefix = byte_level, space_prefix
        self._bos_id, self._eos_id = bos_id, eos_id
        self._strip_right = strip_right
        self.piece = lru_cache(_PIECES)(self._piece)
        found = [one for one, kind in enumerate(types) if kind in _FOUND_FIRST and ids.get(tokens[one]) == one]
        self._special = sorted(found, key=lambda one: -len(tokens[one].encode()))

    def encode(self, text: str, add_special_tokens: bool = True) -> Encoding:
        """Token ids of a text. Raises InputError if it holds half a surrogate pair, or what the vocabulary lacks."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError("the text is not valid Unicode") from error
        ids: list[int] = []
        behind_special = True
        for part in self._parts(text):
            if isinstance(part, int):
                ids.append(part)
            else:
                part = part.replace(self._mark, "") if self._mark else part
                ids += self._model.encode(" " + part if self._space_prefix and behind_special else part)
            behind_special = isinstance(part, int)
        if add_special_tokens and self._eos_id is not None:
            ids.append(self._eos_id)
        return Encoding(ids)

    def without(self, mark: str) -> GGMLTokenizer:
        """The same tokenizer, but that it takes a character out of a text once the special tokens are found."""
        other = copy.copy(self)
        other._mark = mark
        return other

    def _parts(self, text: str) -> Iterator[str | int]:
        """The text cut at its special tokens, which stand there by id."""
        present = [one for one in self._special if self._tokens[one] in text]
        for index, one in enumerate(present):
            mark = chr(0xD800 + index // 0x400) + chr(0xDC00 + index % 0x400)  # halves of pairs are in no text
            token = self._tokens[one]
            if one in self._strip_right:
                text = re.sub(rf"{re.escape(token)}[ \t\n\v\f\r]*", mark, text)
            else:
                text = text.replace(token, mark)
        for part in _MARK.split(text):
            if _MARK.fullmatch(part):
                yield present[(ord(part[0]) - 0xD800) * 0x400 + ord(part[1]) - 0xDC00]
            elif part:
                yield part

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids, without the space that `encode` put before it. Other numbers become nothing."""
        known = [one for one in ids if 0 <= one < len(self._tokens)]
        pieces = [self.piece(one, skip_special_tokens) for one in known]
        first = 1 if known[:1] == [self._bos_id] else 0
        if self._space_prefix and len(pieces) > first:
            pieces[first] = pieces[first].removeprefix(b" ")
        return b"".join(pieces).decode(errors="replace")

    def _piece(self, one: int, skip_special: bool) -> bytes:
        """The bytes of a token."""
        token, kind = self._tokens[one], self._types[one]
        if kind in (TokenType.CONTROL, TokenType.UNKNOWN):
            return b"" if skip_special else token.encode()
        if kind == TokenType.USER_DEFINED:
            return token.encode()
        if kind == TokenType.BYTE:
            return bytes([int(token[3:5], 16)])
        if kind != TokenType.NORMAL:
            return b""
        if not self._byte_level:
            return token.replace(SPACE, " ").encode()
        if all(letter in _BYTE_OF_LETTER for letter in token):
            return bytes(_BYTE_OF_LETTER[letter] for letter in token)
        return token.encode()

    def token_to_id(self, token: str) -> int | None:
        """The id of a token's text, or None."""
        return self._ids.get(token)

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        """Number of tokens."""
        return len(self._tokens)

    def get_added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens that are found first, by id; `special` are those that `decode` leaves out."""
        return {
            one: AddedToken(self._tokens[one], special=self._types[one] != TokenType.USER_DEFINED, normalized=False)
            for one in self._special
        }


_FOUND_FIRST = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)
