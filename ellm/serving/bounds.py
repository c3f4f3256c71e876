"""What numbers that callers set may be."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from numbers import Integral
from typing import Any, TypeGuard

from ellm.system.errors import InputError

_LARGEST = sys.float_info.max
Range = tuple[int | None, int | None]
"""Least and most; None: anything that is whole."""


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is one that a float can hold, True and False aside."""
    return isinstance(value, float) or (
        isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST
    )


def check_whole(given: Mapping[str, Any], ranges: Mapping[str, Range]) -> None:
    """Raise InputError unless those that are given, and not None, are whole numbers within their ranges."""
    for name, (least, most) in ranges.items():
        value = given[name]
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise InputError(f"{name} must be a whole number, not {value!r}")
        if least is not None and (int(value) < least or (most is not None and int(value) > most)):
            wanted = f"from {least} to {most}" if most is not None else f"at least {least}"
            raise InputError(f"{name} must be {wanted}, not {value}")


def check_seconds(name: str, value: Any, most: float = math.inf) -> None:
    """Raise InputError unless it is None or a finite number above 0, at most `most`."""
    if value is not None and not (is_number(value) and 0 < value <= most and value < math.inf):
        limit = f", at most {most}" if most < math.inf else ""
        raise InputError(f"{name} must be a number of seconds above 0{limit}, not {value!r}")
