"""Texts that tell tokenizers apart: code, scripts, emoji, digits, contractions, white space, control characters."""
# ruff: noqa: RUF001 - letters that look like others are the point

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

_CONTRACTIONS = ["'s", "'S", "'t", "'RE", "'re", "'vE", "'ll", "'LL", "'d", "'M", "'ſ", "'K", "'", "’s", "' s", "'x"]
_SPACES = [
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "\r",
    "\v",
    "\f",
    "\x1c",
    "\x85",
    "\xa0",
    "\u2003",
    "\u2028",
    "\u3000",
    "\u200b",
]
_EMOJI = ["👨‍👩‍👧‍👦", "🇫🇷", "👍🏽", "🏳️‍🌈", "🤖", "❤️", "1️⃣", "☃", "\U0001faf0", "\U0001fae8"]
_CODE = [
    "def f(x):",
    "    return x",
    "{};",
    "//!",
    "==>",
    "a_b",
    "camelCase",
    "HTTPServer",
    "0x1F",
    "1e-5",
    "<div>",
    "```",
]
_WORDS = [
    "the",
    "Hello",
    "WORLD",
    "naïve",
    "Straße",
    "Ελλάδα",
    "Привет",
    "日本語",
    "テキスト",
    "中文",
    "한국어",
    "हिन्दी",
    "ไทย",
]
_WORDS += [
    "العربية",
    "עברית",
    "বাংলা",
    "e\u0301",
    "Ǆ",
    "ﬁ",
    "𝒜𝒷",
    "İı",
    "ΣΑΣς",
    "ㄅㄆ",
    "〇",
    "々",
    "ǅ",
    "Ⅳ",
    "²³",
    "½",
    "٣٤",
    "𞥀",
    "𐐀𐐨",
]
_PUNCTUATION = list("!?.,;:-_/\\|@#$%^&*()[]{}<>+=~`\"'¡¿«»…—、。！？；，。।۔،¬©€")
_BLOCKS = [
    (0x00, 0x80),
    (0x80, 0x250),
    (0x250, 0x530),
    (0x530, 0x1000),
    (0x1000, 0x2000),
    (0x2000, 0x2C00),
    (0x2C00, 0x3400),
]
_BLOCKS += [
    (0x3400, 0xA000),
    (0xA000, 0xD800),
    (0xE000, 0x10000),
    (0x10000, 0x20000),
    (0x1F000, 0x20000),
    (0x20000, 0x32400),
]
_BLOCKS += [(0xE0000, 0xE0200), (0x0, 0xD800)]


def odd_texts(count: int, seed: int = 0, special: Sequence[str] = ()) -> Iterator[str]:
    """Texts of up to some 60 characters, the same for the same seed; `special` are texts to mix in."""
    draw = random.Random(seed)
    digits = lambda: "".join(draw.choice("0123456789") for _ in range(draw.randint(1, 11)))  # noqa: E731
    letters = lambda: "".join(draw.choice("abTHEeSs") for _ in range(draw.randint(1, 6)))  # noqa: E731
    sources = [
        *(lambda pool=pool: draw.choice(pool) for pool in (_CONTRACTIONS, _EMOJI, _CODE, _WORDS, _PUNCTUATION)),
        *(lambda: draw.choice(_SPACES) * draw.choice([1, 1, 1, 2, 3, 4, 9]), lambda: " ", digits, letters),
        lambda: "".join(chr(draw.randrange(*draw.choice(_BLOCKS))) for _ in range(draw.randint(1, 4))),
        *([lambda: draw.choice(special)] if special else []),
    ]
    for _ in range(count):
        chosen = draw.sample(sources, draw.randint(1, len(sources)))
        yield "".join(draw.choice(chosen)() for _ in range(draw.randint(1, 12)))
