"""Calls written as Python: `[f(a=1, b='x'), g()]`, read without evaluating anything."""

from __future__ import annotations

import re
from typing import Any

_TOKEN = re.compile(
    r"""\s*(?:(?P<name>[^\W\d][\w.\-]*)"""
    r"""|(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"""
    r"""|(?P<text>"[^"\\]*(?:\\.[^"\\]*)*"|'[^'\\]*(?:\\.[^'\\]*)*')"""
    r"""|(?P<mark>[\[\](){},:=]))""",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0", "\n": ""}
_WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_DEEPEST = 64
_LONGEST_NUMBER = 400


class _Wrong(Exception):
    pass


def calls(text: str) -> list[tuple[str, dict[str, Any]]] | None:
    """The calls of a list of them, as names and arguments; None if the text is none."""
    try:
        return _Reader(text).calls()
    except _Wrong:
        return None


def literal(text: str) -> tuple[Any] | None:
    """The value of a literal, as a tuple of it alone; None if the text is none."""
    try:
        reader = _Reader(text)
        value = reader.value()
        reader.expect_end()
    except _Wrong:
        return None
    return (value,)


class _Reader:
    def __init__(self, text: str):
        self._text = text.rstrip()
        self._at = 0
        self._deep = 0

    def calls(self) -> list[tuple[str, dict[str, Any]]]:
        self._expect("[")
        found: list[tuple[str, dict[str, Any]]] = []
        while not self._is("]"):
            if found:
                self._expect(",")
                if self._is("]"):
                    break
            kind, name = self._next()
            if kind != "name":
                raise _Wrong
            found.append((name, self._arguments()))
        self.expect_end()
        return found

    def expect_end(self) -> None:
        if self._at != len(self._text):
            raise _Wrong

    def value(self) -> Any:
        kind, text = self._next()
        if kind == "text":
            return _decoded(text[1:-1])
        if kind == "number":
            return _number(text)
        if kind == "name" and text in _WORDS:
            return _WORDS[text]
        if kind == "mark" and text in "[({":
            self._deep += 1
            if self._deep > _DEEPEST:
                raise _Wrong
            value: Any = self._members() if text == "{" else self._items("]" if text == "[" else ")")
            self._deep -= 1
            return value
        raise _Wrong

    def _arguments(self) -> dict[str, Any]:
        self._expect("(")
        found: dict[str, Any] = {}
        while not self._is(")"):
            if found:
                self._expect(",")
                if self._is(")"):
                    break
            kind, name = self._next()
            if kind != "name" or name in found:
                raise _Wrong
            self._expect("=")
            found[name] = self.value()
        return found

    def _items(self, end: str) -> list[Any]:
        found: list[Any] = []
        while not self._is(end):
            if found:
                self._expect(",")
                if self._is(end):
                    break
            found.append(self.value())
        return found

    def _members(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self._is("}"):
            if found:
                self._expect(",")
                if self._is("}"):
                    break
            key = self.value()
            self._expect(":")
            if not isinstance(key, str) or key in found:
                raise _Wrong
            found[key] = self.value()
        return found

    def _next(self) -> tuple[str, str]:
        match = _TOKEN.match(self._text, self._at)
        if match is None or match.lastgroup is None:
            raise _Wrong
        self._at = match.end()
        return match.lastgroup, match[match.lastgroup]

    def _is(self, mark: str) -> bool:
        match = _TOKEN.match(self._text, self._at)
        if match is None or match["mark"] != mark:
            return False
        self._at = match.end()
        return True

    def _expect(self, mark: str) -> None:
        if not self._is(mark):
            raise _Wrong


def _number(text: str) -> int | float:
    if len(text) > _LONGEST_NUMBER:
        raise _Wrong
    try:
        return int(text)
    except ValueError:
        value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _Wrong
    return value


def _decoded(text: str) -> str:
    return _ESCAPE.sub(_character, text)


def _character(match: re.Match[str]) -> str:
    escape = match[1]
    if len(escape) > 1:
        number = int(escape[1:], 16)
        return chr(number) if number < 0xD800 or 0xDFFF < number < 0x110000 else match[0]
    return _ESCAPES.get(escape, escape if escape in "\\'\"" else match[0])
