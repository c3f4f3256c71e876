"""The form of calls that are a list in Python."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ellm.text import python_calls
from ellm.text.argument_types import Tools
from ellm.text.call import Cut, Malformed
from ellm.text.call_form import Reader
from ellm.text.call_grammar import CallGrammar, literal
from ellm.text.input import Input, Reading

_BEGUN = re.compile(r"\[\s*(?:[^\W\d][\w.\-]*\s*)?")
_BEGIN = re.compile(r"\[\s*[^\W\d][\w.\-]*\s*\(")
_LONGEST_BEGIN = 300
_BETWEEN = re.compile(r"""["'\[\](){}]""")
_WITHIN = re.compile(r"""["'\\]""")


@dataclass(frozen=True)
class Pythonic:
    """`[f(a=1), g()]`, between marks or as the beginning of an answer."""

    begins: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    sections: tuple[tuple[str, str], ...] = ()
    bare: str = "["
    forgiving: bool = False

    @property
    def marks(self) -> tuple[str, ...]:
        """See Form."""
        return (*self.begins, *self.ends)

    def read(self, reader: Reader, begin: str, tools: Tools) -> Reading[None]:
        """See Form."""
        yield from reader.input.space()
        calls = python_calls.calls((yield from _read_list(reader.input)))
        if not calls or (not begin and any(name not in tools for name, _ in calls)):
            raise Malformed
        for name, arguments in calls:
            call = reader.call(name)
            call.add(json.dumps(arguments, ensure_ascii=False))
            reader.done(call)
        yield from reader.input.space()
        yield from reader.input.accept(*self.ends)

    def write(self, grammar: CallGrammar) -> str:
        """See Form."""

        def write_argument(key: str, schema: Mapping[str, Any]) -> str:
            return f'{literal(key + "=")} {grammar.json(schema)} ", "'  # also behind the last one

        def write(name: str) -> str:
            return f'{literal(name + "(")} {grammar.parameters(name, write_argument)} ")"'

        calls = f'"[" {grammar.each(write)} "]"'
        return " ".join([*map(grammar.mark, self.begins), calls, *map(grammar.mark, self.ends)])


def _read_list(source: Input) -> Reading[str]:
    """The text of a list, up to its closing bracket. Raises Malformed as soon as it is no list of calls."""
    begun = ""
    while not _BEGIN.fullmatch(begun):
        if not (yield from source.peek()):
            raise Malformed if (yield from source.wait()) else Cut
        text = source.take(1)
        if not _BEGUN.fullmatch(begun + text) and not _BEGIN.fullmatch(begun + text):
            source.put_back(text)
            raise Malformed
        begun += text
        if len(begun) > _LONGEST_BEGIN:
            raise Malformed
    state, parts = _Brackets(), [begun]
    while state.depth:
        text = yield from source.peek()
        if text:
            parts.append(source.take(state.scan(text)))
        elif not (yield from source.wait()):
            raise Cut
        elif not state.quote:
            raise Malformed
        else:
            parts.append((yield from source.next())[0])
            state.behind = False
    return "".join(parts)


class _Brackets:
    """How deep in brackets, behind `[f(`; `quote` is what a string ends with, `behind` is whether a backslash came."""

    def __init__(self) -> None:
        self.depth, self.quote, self.behind = 2, "", False

    def scan(self, text: str) -> int:
        """How many characters of a text are read until the last bracket is closed."""
        at = 0
        while self.depth and at < len(text):
            if self.behind:
                at, self.behind = at + 1, False
                continue
            found = (_WITHIN if self.quote else _BETWEEN).search(text, at)
            if found is None:
                return len(text)
            at, character = found.end(), found[0]
            if character == "\\":
                self.behind = True
            elif self.quote:
                self.quote = "" if character == self.quote else self.quote
            elif character in "\"'":
                self.quote = character
            else:
                self.depth += 1 if character in "[({" else -1
        return at
