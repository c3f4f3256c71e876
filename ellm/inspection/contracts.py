"""The contracts of the kernels as kernels/arguments.h words them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from ellm.kernels import contract

_COMMENT = r"/\*\s*((?:(?!\*/).)*?)\s*\*/"
_FIELD = re.compile(rf"ellm_\w+ (\w+);(?:\s*{_COMMENT})?", re.DOTALL)


@dataclass(frozen=True)
class Contract:
    """The equation and number of tasks of a kernel, and its arguments as {name: (type, meaning)}."""

    text: str
    fields: dict[str, tuple[str, str]]


@cache
def contracts() -> dict[str, Contract]:
    """The contract of every kernel, by name."""
    source = contract.TEXT
    shared = re.findall(r"#define (ELLM_\w+) +\\\n(.*?)\n\n", source, re.DOTALL)  # fields of several kernels
    fields = {name: lines.replace("\\\n", "\n") for name, lines in shared}
    found = {}
    for text, name, body in re.findall(
        rf"{_COMMENT}\n(?:#define [^\n]*\n)?typedef struct ellm_(\w+) \{{(.*?)\}} ellm_\2;", source, re.DOTALL
    ):
        if name in contract.FIELDS:
            whole = re.sub(r"\bELLM_\w+", lambda word: fields.get(word[0], word[0]), body)
            meanings, kinds = dict(_FIELD.findall(whole)), contract.FIELDS[name]
            found[name] = Contract(_flat(text), {field: (kinds[field], _flat(meanings[field])) for field in kinds})
    return found


def _flat(comment: str) -> str:
    """A comment without its line breaks and leading stars."""
    return " ".join(re.sub(r"\n\s*\*? ?", " ", comment).split())
