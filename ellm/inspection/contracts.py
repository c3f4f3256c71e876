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
    product = re.search(r"#define ELLM_MATMUL(.*?)\n\n", source, re.DOTALL)
    assert product, "task.h lacks ELLM_MATMUL"
    found = {}
    for text, name, body in re.findall(
        rf"{_COMMENT}\n(?:#define [^\n]*\n)?typedef struct ellm_(\w+) \{{(.*?)\}} ellm_\2;", source, re.DOTALL
    ):
        if name in contract.FIELDS:
            meanings = dict(_FIELD.findall(body.replace("ELLM_MATMUL", product[1].replace("\\\n", "\n"))))
            kinds = contract.FIELDS[name]
            found[name] = Contract(_flat(text), {field: (kinds[field], _flat(meanings[field])) for field in kinds})
    return found


def _flat(comment: str) -> str:
    """A comment without its line breaks and leading stars."""
    return " ".join(re.sub(r"\n\s*\*? ?", " ", comment).split())
