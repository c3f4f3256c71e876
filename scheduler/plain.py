"""Dataclasses from plain data, such as JSON holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints


def read(kind: Any, value: Any, where: str) -> Any:
    """`value` as a `kind`: a dataclass, a list, tuple or dict of such, or a number, text or truth.

    Raises ValueError, naming the place by `where`, if it is something else.
    """
    if type(value) is kind:  # most are numbers and texts, of which saved programs have tens of thousands
        return value
    if is_dataclass(kind):
        return _dataclass(kind, value, where)
    origin, parts = get_origin(kind), get_args(kind)
    if origin is UnionType:
        (other,) = (part for part in parts if part is not NoneType)
        return None if value is None else read(other, value, where)
    if origin in (list, tuple):
        _expect(isinstance(value, list), value, "a list", where)
        if parts[0] in (int, str) and all(type(one) is parts[0] for one in value):
            return origin(value)
        return origin(read(parts[0], one, f"{where}[{number}]") for number, one in enumerate(value))
    if origin is dict:
        _expect(isinstance(value, dict), value, "an object", where)
        return {key: read(parts[1], one, f"{where}.{key}") for key, one in value.items()}
    if kind is float:
        _expect(type(value) in (int, float), value, "a number", where)
        return float(value)
    _expect(type(value) is kind, value, f"of type {kind.__name__}", where)
    return value


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, Mapping), value, "an object", where)
    types, needed = _types(kind)
    for words, names in (("has an unknown", value.keys() - types.keys()), ("lacks", needed - value.keys())):
        if names:
            raise ValueError(f"{where} {words} {', '.join(sorted(names))}")
    return kind(**{name: read(types[name], one, f"{where}.{name}") for name, one in value.items()})


@cache
def _types(kind: Any) -> tuple[dict[str, Any], set[str]]:
    """Types of a dataclass' fields, and those that have no default."""
    needed = {one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING}
    return get_type_hints(kind), needed


def _expect(holds: bool, value: Any, wanted: str, where: str) -> None:
    if not holds:
        text = repr(value)
        raise ValueError(f"{where} is {text if len(text) < 40 else text[:37] + '...'}, must be {wanted}")
