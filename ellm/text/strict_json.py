"""JSON as the standard has it: no NaN, no Infinity, and nothing that recurses without end."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def loads(text: str) -> Any:
    """The value of a text. Raises ValueError if it is no JSON."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_json(text: str) -> bool:
    """Whether a text is JSON."""
    try:
        loads(text)
    except ValueError:
        return False
    return True


def is_object(text: str) -> bool:
    """Whether a text is a JSON object."""
    try:
        return isinstance(loads(text), dict)
    except ValueError:
        return False


def escaped(text: str) -> str:
    """A text as a part of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)
