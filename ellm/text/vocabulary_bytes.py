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


def vocabulary_bytes(backend: Backend) -> list[bytes]:
    """By id; an id that no token has is nothing. Tokens that are found whole in a text are their texts."""
    if isinstance(backend, GGMLTokenizer):
        return [backend.piece(one, skip_special=False) for one in range(backend.get_vocab_size())]
    found = [b""] * backend.get_vocab_size(with_added_tokens=True)
    package: Any = backend
    byte_level = b"ByteLevel" in _decoder(package)
    fallback = b"ByteFallback" in _decoder(package)
    texts = {number: text for text, number in package.get_vocab(with_added_tokens=True).items()}
    added = backend.get_added_tokens_decoder()
    for number, text in texts.items():
        if number >= len(found):  # ids may have gaps
            found += [b""] * (number + 1 - len(found))
        if number in added:
            found[number] = added[number].content.encode()
        elif byte_level:
            found[number] = bytes(_BYTE_OF_LETTER[letter] for letter in text if letter in _BYTE_OF_LETTER)
        elif fallback and (byte := _BYTE.fullmatch(text)):
            found[number] = bytes([int(byte[1], 16)])
        else:
            found[number] = text.replace(SPACE, " ").encode()
    return found


def _decoder(package: Any) -> bytes:
    return b"" if package.decoder is None else json.dumps(json.loads(package.decoder.__getstate__())).encode()
