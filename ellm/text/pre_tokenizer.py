r"""Cuts a text into pieces as llama.cpp's expressions do (llama.cpp, src/unicode.cpp).

A rule is a sequence of steps: each cuts what those before it left whole, at both ends of every match. The expressions
are those of `re`, ASCII only, with the categories L, M, N, P and S. They have no case outside ASCII: \p{Upper} is
any letter but a-z, \p{Lower} any but A-Z.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from ellm.text.unicode_categories import WHITE_SPACE, categories


@dataclass(frozen=True)
class Threes:
    """Cuts runs of digits into threes from their ends.

    `keeps_lead`: cuts lie behind groups, so that the first group keeps the text before it; otherwise before full
    groups, so that the last group keeps the text behind it.
    """

    digits: str
    keeps_lead: bool


@dataclass(frozen=True)
class PreTokenizer:
    """How a text is cut, and what else llama.cpp derives from the pre-tokenizer's name.

    Attributes:
        rule: the steps.
        whole_words: a piece that is a token is taken whole, without merges.
        whole_newlines: the same for pieces of newlines alone.
        add_bos: a text begins with BOS unless the file says otherwise.
        byte_level: pieces are spelled in GPT-2's alphabet of bytes. Otherwise they are taken as they are, and <0x0A>
            stands for a byte of a character that the vocabulary lacks.
        escape_spaces: U+2581 stands for a space.
    """

    rule: tuple[str | Threes, ...]
    whole_words: bool = False
    whole_newlines: bool = False
    add_bos: bool = False
    byte_level: bool = True
    escape_spaces: bool = False

    def cut(self, text: str) -> list[str]:
        """The pieces of a text, in order, none of them empty."""
        cuts = [0, len(text)]
        for step in self.rule:
            expression = step.digits if isinstance(step, Threes) else step
            seen = text if text.isascii() else _as_seen(text, expression)
            find = _compiled(expression).finditer
            found = [0]
            for begin, end in pairwise(cuts):
                for match in find(seen, begin, end):
                    found += _groups(step, *match.span()) if isinstance(step, Threes) else match.span()
                found.append(end)
            cuts = list(dict.fromkeys(found))
        return [text[begin:end] for begin, end in pairwise(cuts)]


def _groups(step: Threes, begin: int, end: int) -> Iterable[int]:
    """The cuts of one run of digits, ascending."""
    first, last = (begin + 1, end) if step.keeps_lead else (begin, end - 3)
    return reversed(range(last, first - 1, -3))


@cache
def _compiled(expression: str) -> re.Pattern[str]:
    """With the categories of the letters that `_as_seen` puts in place of characters outside ASCII."""
    classes = re.compile(r"\[(?:\\.|[^\]\\])*\]|(?P<lone>\\p\{[^}]+\})")

    def spelled(match: re.Match[str]) -> str:
        letters = re.sub(r"\\p\{([^}]+)\}", lambda name: _CLASSES[name[1]], match[0])
        return f"[{letters}]" if match["lone"] else letters

    return re.compile(classes.sub(spelled, expression), re.ASCII)


_CLASSES = {  # as members of a set; a category's own letter, 0x80 higher, stands for what is outside ASCII
    "L": "A-Za-zÌÈ",
    "Upper": "A-ZÌ",
    "Lower": "a-zÌ",
    "M": "Í",
    "N": "0-9Î",
    "P": r"!-#%-*,-/:;?@\[-\]_{}Ð",
    "S": r"$+<=>\^`|~Ó",
    "Han": "Èè",
    "L-Han": "A-Za-zÌ",
}
_LETTER, _HAN_LETTER, _HAN_OTHER = b"\xcc\xc8\xe8"
_HAN_RANGES = (  # kimi-k2's, unassigned code points included
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)),
    *((0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0x2CEB0, 0x2EBEF), (0x2F800, 0x2FA1F)),
)


def _as_seen(text: str, expression: str) -> str:
    """The text as an expression is matched with it, which keeps ASCII and the number of characters."""
    if r"\p{" in expression:
        return text.translate(_table(r"\p{Han}" in expression))  # type: ignore[arg-type]  # what has [] will do
    return re.sub(f"[{WHITE_SPACE}]", "\v", text)


@cache
def _table(han: bool) -> str:
    """What each code point is seen as."""
    high = bytes(range(0x80, 0x100)) * 2
    letters = bytearray(range(0x80)) + categories().translate(high)
    for space in WHITE_SPACE:
        letters[ord(space)] = ord("\v")
    for first, last in _HAN_RANGES if han else ():
        part = letters[first : last + 1]
        letters[first : last + 1] = bytes(_HAN_LETTER if letter == _LETTER else _HAN_OTHER for letter in part)
    return letters.decode("latin-1")
