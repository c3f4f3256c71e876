"""Rewrites the table in ellm/text/unicode_categories.py.

Run from the root: python tests/helpers/make_categories.py  (needs pip install unicodedata2==15.1.0)
"""

import itertools
import re
import textwrap
from pathlib import Path

FILE = Path(__file__).parents[2] / "ellm" / "text" / "unicode_categories.py"
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def base36(number: int) -> str:
    return (base36(number // 36) if number >= 36 else "") + DIGITS[number % 36]


def runs(category) -> str:
    """Runs of one major category from U+0080 on: its letter and, in base 36, its length if that is not 1."""
    letters = (major if (major := category(chr(code))[0]) in "LMNPS" else "C" for code in range(0x80, 0x110000))
    lengths = ((letter, sum(1 for _ in run)) for letter, run in itertools.groupby(letters))
    return "".join(letter + (base36(length) if length > 1 else "") for letter, length in lengths)


if __name__ == "__main__":
    import unicodedata2

    assert unicodedata2.unidata_version == "15.1.0"
    table = "\n".join(f'    "{line}"' for line in textwrap.wrap(runs(unicodedata2.category), 112))
    text = FILE.read_text()
    FILE.write_text(re.sub(r"_RUNS = \(\n.*?\)\n", f"_RUNS = (\n{table}\n)\n", text, flags=re.DOTALL))
