"""The bytes that each token stands for."""

from __future__ import annotations

import json
import re
from typing import Any

from ellm.text.backend import Backend
from ellm.text.ggml_tokenizer import GGMLTokenizer
from ellm.text.merges import LETTER_OF_BYTE, SPACE

_BYTE_OF_LETTER = {letter: byte for byte, letter in LETTER_OF_BYTE.items()}
_BYTE = re.compile("<0x([0-9A-F]{2})>")


class TokenBytes:
    """Finds the bytes of a token; an id that no token has is nothing. Tokens that are found whole in a text are their
    texts."""

    def __init__(self, backend: Backend):
        self._backend: Any = backend
        self._ggml = isinstance(backend, GGMLTokenizer)
        self._size = backend.get_vocab_size()
        if not self._ggml:
            decoder = _decoder(backend)
            self._byte_level, self._fallback = b"ByteLevel" in decoder, b"ByteFallback" in decoder
            self._added = backend.get_added_tokens_decoder()

    def of(self, number: int) -> bytes:
        """Those of an id."""
        if self._ggml:
            return self._backend.piece(number, skip_special=False) if number < self._size else b""
        text = self._backend.id_to_token(number)
        return b"" if text is None else self.spelled(number, text)

    def spelled(self, number: int, text: str) -> bytes:
        """Those of a token of the `tokenizers` package that is written so in its vocabulary."""
        if number in self._added:
            return self._added[number].content.encode()
        if self._byte_level:
            return bytes(_BYTE_OF_LETTER[letter] for letter in text if letter in _BYTE_OF_LETTER)
        if self._fallback and (byte := _BYTE.fullmatch(text)):
            return bytes([int(byte[1], 16)])
        return text.replace(SPACE, " ").encode()


def vocabulary_bytes(backend: Backend) -> list[bytes]:
    """Those of all tokens by id."""
    tokens = TokenBytes(backend)
    if isinstance(backend, GGMLTokenizer):
        return [tokens.of(one) for one in range(backend.get_vocab_size())]
    found = [b""] * backend.get_vocab_size(with_added_tokens=True)
    package: Any = backend
    for text, number in package.get_vocab(with_added_tokens=True).items():
        if number >= len(found):  # ids may have gaps
            found += [b""] * (number + 1 - len(found))
        found[number] = tokens.spelled(number, text)
    return found


def _decoder(package: Any) -> bytes:
    return b"" if package.decoder is None else json.dumps(json.loads(package.decoder.__getstate__())).encode()
