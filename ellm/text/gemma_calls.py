"""Gemma 4's form of calls: objects whose keys are bare and whose strings stand between tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ellm.text.argument_types import Tools, as_json
from ellm.text.call import Call, Cut, Malformed
from ellm.text.call_form import Name, Reader, expect
from ellm.text.call_grammar import CallGrammar, literal
from ellm.text.input import Input, Reading
from ellm.text.strict_json import escaped

_QUOTE = '<|"|>'
_DEEPEST = 64
_LONGEST_KEY = 1024
_ANY: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Gemma:
    """`<|tool_call>call:name{key:<|"|>text<|"|>,other:[1,2]}<tool_call|>`."""

    begins: tuple[str, ...] = ("<|tool_call>",)
    end: str = "<tool_call|>"
    sections: tuple[tuple[str, str], ...] = ()
    bare: str = ""
    forgiving: bool = False

    @property
    def marks(self) -> tuple[str, ...]:
        """See Form."""
        return (*self.begins, self.end, _QUOTE)

    def read(self, reader: Reader, begin: str, tools: Tools) -> Reading[None]:
        """See Form."""
        source, name = reader.input, Name()
        yield from expect(source, "call:")
        if not (yield from source.until(("{",), name.add, careful=True)):
            raise Cut
        call = reader.call(name.whole)
        yield from _read_members(source, call, 1)
        yield from expect(source, self.end)
        reader.done(call)

    def write(self, grammar: CallGrammar) -> str:
        """See Form."""
        text = f"{grammar.mark(_QUOTE)} {grammar.free(_QUOTE)}"
        value = grammar.rule(
            f'{text} | "true" | "false" | "null" | /-?[0-9]+(\\.[0-9]+)?/ | "[" (value ("," value)*)? "]"'
            ' | "{" (key ":" value ("," key ":" value)*)? "}"',
            name="value",
        )
        grammar.rule("/[^:,{}\\[\\]<]+/", name="key")

        def pair(name: str, key: str, schema: Mapping[str, Any]) -> str:
            is_string = grammar.tools.types(name, key) == frozenset({"string"})
            return f'{literal(key + ":")} ({text if is_string else value}) ","?'

        def write(name: str) -> str:
            return f'{literal(f"call:{name}{{")} {grammar.parameters(name, partial(pair, name))} "}}"'

        return f"{grammar.mark(self.begins[0])} {grammar.each(write)} {grammar.mark(self.end)}"


def _read_members(source: Input, call: Call, depth: int) -> Reading[None]:
    """What is behind the bracket of an object, up to its end."""
    call.add("{")
    first = True
    yield from source.space()
    while not (yield from source.accept("}")):
        if not first:
            yield from expect(source, ",")
            yield from source.space()
            if (yield from source.accept("}")):
                break
            call.add(", ")
        key = yield from _read_key(source)
        call.add(json.dumps(key, ensure_ascii=False) + ": ")
        yield from _read_value(source, call, depth)
        yield from source.space()
        first = False
    call.add("}")


def _read_key(source: Input) -> Reading[str]:
    parts: list[str] = []

    def add(text: str) -> None:
        parts.append(text)
        if sum(map(len, parts)) > _LONGEST_KEY:
            raise Malformed

    yield from source.space()
    quoted = yield from source.accept(_QUOTE)
    if not (yield from source.until((_QUOTE if quoted else ":",), add, careful=True)):
        raise Cut
    if quoted:
        yield from expect(source, ":")
    return "".join(parts) if quoted else "".join(parts).strip()


def _read_value(source: Input, call: Call, depth: int) -> Reading[None]:
    if depth > _DEEPEST:
        raise Malformed
    yield from source.space()
    found = yield from source.accept(_QUOTE, "{", "[")
    if found == _QUOTE:
        call.add('"')
        if not (yield from source.until((_QUOTE,), lambda text: call.add(escaped(text)))):
            raise Cut
        call.add('"')
    elif found == "{":
        yield from _read_members(source, call, depth + 1)
    elif found == "[":
        yield from _read_items(source, call, depth + 1)
    else:
        yield from _read_scalar(source, call)


def _read_items(source: Input, call: Call, depth: int) -> Reading[None]:
    call.add("[")
    first = True
    yield from source.space()
    while not (yield from source.accept("]")):
        if not first:
            yield from expect(source, ",")
            call.add(", ")
        yield from _read_value(source, call, depth)
        yield from source.space()
        first = False
    call.add("]")


def _read_scalar(source: Input, call: Call) -> Reading[None]:
    parts: list[str] = []
    found = yield from source.until((",", "}", "]"), parts.append)
    if not found:
        raise Cut
    source.put_back(found)
    if not "".join(parts).strip():
        raise Malformed
    call.add(as_json("".join(parts).strip(), _ANY))
