"""Byte pair encoding as llama.cpp does it: of GPT-2's kind by ranks, of SentencePiece's by scores.

`tokenizers` would refuse merges whose parts are no tokens, cannot rank two merges alike, and asks for merges where
SentencePiece has scores; llama.cpp's ids need all three.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from heapq import heapify, heappop, heappush
from itertools import pairwise

from ellm.system.errors import InputError
from ellm.text.pre_tokenizer import PreTokenizer

SPACE = "\u2581"  # stands for a space in SentencePiece's vocabularies
_CACHED_LENGTH, _CACHED_WORDS = 32, 1 << 16


def byte_token(byte: int) -> str:
    """How a vocabulary writes a single byte: <0x0A>."""
    return f"<0x{byte:02X}>"


def _alphabet() -> dict[int, str]:
    """GPT-2's letters for bytes: printable ones of Latin-1 for themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


LETTER_OF_BYTE = _alphabet()


class BytePairs:
    """Merges the pair of lowest rank first, within the pieces that the pre-tokenizer cuts."""

    def __init__(self, ids: Mapping[str, int], merges: Sequence[tuple[str, ...]], pre_tokenizer: PreTokenizer):
        """`merges`, pairs of tokens, by rank; of two alike the first counts."""
        self._ids = ids
        self._pre = pre_tokenizer
        self._ranks = dict(zip(reversed(merges), range(len(merges) - 1, -1, -1), strict=True))
        self._cached = lru_cache(_CACHED_WORDS)(self._merge)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; bytes that the vocabulary lacks are left out."""
        if self._pre.escape_spaces:
            text = text.replace(" ", SPACE)
        ids: list[int] = []
        for piece in self._pre.cut(text):
            ids += self._cached(piece) if len(piece) <= _CACHED_LENGTH else self._merge(piece)
        return ids

    def _merge(self, piece: str) -> list[int]:
        if self._pre.byte_level:
            piece = piece.encode().decode("latin-1").translate(LETTER_OF_BYTE)
        whole = self._pre.whole_words or (self._pre.whole_newlines and not piece.strip("\n"))
        if whole and piece in self._ids:
            return [self._ids[piece]]
        ids: list[int] = []
        for symbol in merged(piece, lambda left, right: self._ranks.get((left, right))):
            ids += [self._ids[symbol]] if symbol in self._ids else self._spelled(symbol)
        return ids

    def _spelled(self, symbol: str) -> list[int]:
        """What is no token byte by byte. llama.cpp looks up each byte of a letter on its own: only ASCII is found."""
        if self._pre.byte_level:
            return [self._ids[letter] for letter in symbol if letter.isascii() and letter in self._ids]
        return [self._ids[token] for token in map(byte_token, symbol.encode()) if token in self._ids]


class SentencePieces:
    """Merges the pair that makes the token of the highest score first, over the whole text."""

    def __init__(self, ids: Mapping[str, int], scores: Sequence[float], unknown_id: int | None):
        """`scores` by token id; `unknown_id` stands for a character that has no tokens for its bytes either."""
        self._ids = ids
        self._scores = scores
        self._unknown_id = unknown_id
        self._cached = lru_cache(_CACHED_WORDS)(self._merge)
        across = re.compile(f"[^{SPACE}]{SPACE}")
        self._by_words = not any(across.search(token) for token in ids)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text. Raises InputError if it has a character for which there is nothing."""
        text = text.replace(" ", SPACE)
        # Where no token goes across the beginning of a word, no merge does, so words can be cached.
        words = re.findall(f"{SPACE}*[^{SPACE}]+|{SPACE}+", text) if self._by_words else [text]
        ids: list[int] = []
        for word in words:
            ids += self._cached(word) if len(word) <= _CACHED_LENGTH else self._merge(word)
        return ids

    def _merge(self, word: str) -> list[int]:
        ids: list[int] = []
        for symbol in merged(word, self._order):
            found = [self._ids[symbol]] if symbol in self._ids else self._bytes(symbol)
            if found != [self._unknown_id] or ids[-1:] != found:  # unknown characters in a row are one token
                ids += found
        return ids

    def _order(self, left: str, right: str) -> float | None:
        token = self._ids.get(left + right)
        return None if token is None else -self._scores[token]

    def _bytes(self, letter: str) -> list[int]:
        tokens = [self._ids.get(byte_token(byte)) for byte in letter.encode()]
        if None not in tokens:
            return [token for token in tokens if token is not None]
        if self._unknown_id is None:
            raise InputError(f"the vocabulary has neither {letter!r} nor its bytes nor a token for unknown ones")
        return [self._unknown_id]


def merged(text: str, order: Callable[[str, str], float | None]) -> list[str]:
    """The symbols that are left of a text's characters when all pairs are merged, lowest `order` first, then leftmost.

    `order` of two neighbours is None if they do not merge.
    """
    symbols = [*text]
    before, behind = list(range(-1, len(symbols) - 1)), list(range(1, len(symbols) + 1))
    queue: list[tuple[float, int, int, int]] = []  # order, left, right, length of both when it was put in
    for left, pair in enumerate(pairwise(symbols)):
        if (value := order(*pair)) is not None:
            queue.append((value, left, left + 1, 2))
    heapify(queue)
    while queue:
        _, left, right, length = heappop(queue)
        if not symbols[left] or not symbols[right] or len(symbols[left]) + len(symbols[right]) != length:
            continue  # one of them was merged since
        symbols[left] += symbols[right]
        symbols[right] = ""
        behind[left] = behind[right]
        if behind[left] < len(symbols):
            before[behind[left]] = left
        for first, second in ((before[left], left), (left, behind[left])):
            if first < 0 or second >= len(symbols):
                continue
            if (value := order(symbols[first], symbols[second])) is not None:
                heappush(queue, (value, first, second, len(symbols[first]) + len(symbols[second])))
    return [symbol for symbol in symbols if symbol]
