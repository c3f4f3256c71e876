"""Forms of calls whose arguments stand between tags, one by one, as bare text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ellm.text.argument_types import Tools, as_json
from ellm.text.call import Call, Cut, Malformed
from ellm.text.call_form import Name, Reader, expect
from ellm.text.call_grammar import CallGrammar, literal
from ellm.text.input import Input, Reading, Sink
from ellm.text.strict_json import escaped, is_json

_ATTRIBUTE = re.compile(r'([\w-]+)\s*=\s*"([^"]*)"')
_LONGEST_TAG = 1024
_STRING = frozenset({"string"})


class Arguments:
    """Writes arguments as JSON."""

    def __init__(self, call: Call, tools: Tools):
        self._call, self._tools = call, tools
        self._keys: set[str] = set()

    def types(self, key: str) -> frozenset[str]:
        """The types that an argument may have."""
        return self._tools.types(self._call.name or "", key)

    def read(self, key: str, types: frozenset[str] | None, value: Value) -> Reading[str]:
        """Read one argument and what ends it; of no types, it is JSON."""
        if not key or key in self._keys:
            raise Malformed
        self._call.add(f"{', ' if self._keys else '{'}{json.dumps(key, ensure_ascii=False)}: ")
        self._keys.add(key)
        if types == _STRING:
            self._call.add('"')
            found = yield from value.read(lambda text: self._call.add(escaped(text)))
            self._call.add('"')
            return found
        parts: list[str] = []
        found = yield from value.read(parts.append)
        text = "".join(parts)
        if types is None:
            self._call.add(text.strip() if is_json(text) else json.dumps(text, ensure_ascii=False))
        else:
            self._call.add(as_json(text, types))
        return found

    def end(self) -> None:
        """There are no more."""
        self._call.add("}" if self._keys else "{}")


@dataclass(frozen=True)
class Value:
    """A value up to one of some marks."""

    source: Input
    ends: tuple[str, ...]
    line_ends: tuple[str, ...] = ()  # what ends it if it begins on a line of its own

    def read(self, sink: Sink) -> Reading[str]:
        """Hand it on; the mark that ends it. Raises Cut."""
        ends, left = self.ends, 0
        if self.line_ends and (yield from self.source.peek())[:1] == "\n":
            ends, left = self.line_ends, 1

        def hand_on(text: str) -> None:
            nonlocal left
            text, left = text[left:], 0
            if text:
                sink(text)

        found = yield from self.source.until(ends, hand_on)
        if not found:
            raise Cut
        return found.lstrip("\n")


@dataclass(frozen=True)
class Tagged:
    """`<function=name><parameter=key>value</parameter></function>`, or with attributes `name="..."`."""

    function: tuple[str, str]  # <function=, </function>
    parameter: tuple[str, str]
    sections: tuple[tuple[str, str], ...] = ()
    around: tuple[str, ...] = ()  # what may be around one call or several; models forget it
    says_strings: bool = False  # a parameter has `string="true"` or "false"
    lines: bool = False  # values are on lines of their own, unless a call has no lines at all
    bare: str = ""
    forgiving: bool = False

    @property
    def marks(self) -> tuple[str, ...]:
        """See Form."""
        tags = () if self.lines else (*self.function, *self.parameter)  # line feeds are a part of them
        return (*tags, *self.around, *sum(self.sections, ()))

    @property
    def begins(self) -> tuple[str, ...]:
        """See Form."""
        return (*self.around[:1], self.function[0])

    def read(self, reader: Reader, begin: str, tools: Tools) -> Reading[None]:
        """See Form."""
        source = reader.input
        if begin != self.function[0]:
            yield from expect(source, self.function[0])
        while True:
            yield from self._read_call(reader, tools)
            if self.sections:
                return
            yield from source.space()
            if not (yield from source.accept(self.function[0])):
                yield from source.accept(*self.around[1:])
                return

    def write(self, grammar: CallGrammar) -> str:
        """See Form."""
        begin, end = self.function
        feed = '"\\n"' if self.lines else '"\\n"?'

        def write(name: str) -> str:
            parameters = grammar.parameters(name, lambda key, schema: self._write_parameter(grammar, name, key, schema))
            return f"{_write_tag(grammar, begin, name)} {feed} {parameters} {grammar.mark(end)} {feed}"

        before, *behind = map(grammar.mark, self.around or ("",))
        return " ".join([f'{before} "\\n"' if self.around else "", grammar.each(write), *behind]).strip()

    def _write_parameter(self, grammar: CallGrammar, name: str, key: str, schema: Mapping[str, Any]) -> str:
        is_string = grammar.tools.types(name, key) == _STRING
        feed = "\n" if self.lines else ""
        behind = literal(feed) if self.lines else '"\\n"?'
        said = f' string="{str(is_string).lower()}"' if self.says_strings else ""
        head = f"{_write_tag(grammar, self.parameter[0], key, said)} {literal(feed)}"
        if is_string and "enum" not in schema:
            return f"{head} {grammar.free(self.parameter[1], feed)} {behind}"
        value = " | ".join(map(literal, schema["enum"])) if is_string else grammar.json(schema)
        return f"{head} ({value}) {literal(feed)} {grammar.mark(self.parameter[1])} {behind}"

    def _read_call(self, reader: Reader, tools: Tools) -> Reading[None]:
        source = reader.input
        header = yield from _read_tag(source)
        call = reader.call(_name(header))
        arguments = Arguments(call, tools)
        if not header.endswith("/"):
            yield from self._read_arguments(source, arguments)
        arguments.end()
        reader.done(call)

    def _read_arguments(self, source: Input, arguments: Arguments) -> Reading[None]:
        (end, (begin_value, end_value)) = self.function[1], self.parameter
        while True:
            found = yield from expect(source, begin_value, end)
            while found == begin_value:
                header = yield from _read_tag(source)
                key = _name(header)
                types = _said_types(header) or arguments.types(key)
                ends = (end_value, begin_value, end) if self.lines else (end_value,)
                line_ends = tuple("\n" + mark for mark in ends) if self.lines else ()
                value = Value(source, ends, line_ends)
                found = yield from arguments.read(key, None if "json" in types else types, value)
            if found == end:
                return


@dataclass(frozen=True)
class Pairs:
    """`<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>`, with line feeds or without."""

    begins: tuple[str, ...]
    end: str
    key: tuple[str, str]
    value: tuple[str, str]
    sections: tuple[tuple[str, str], ...] = ()
    bare: str = ""
    forgiving: bool = True

    @property
    def marks(self) -> tuple[str, ...]:
        """See Form."""
        return (*self.begins, self.end, *self.key, *self.value)

    def read(self, reader: Reader, begin: str, tools: Tools) -> Reading[None]:
        """See Form."""
        source, name = reader.input, Name()
        found = yield from source.until((self.key[0], self.end), name.add, careful=True)
        if not found:
            raise Cut
        call = reader.call(name.whole)
        arguments = Arguments(call, tools)
        # Strings may hold all other marks. Only where a value has no end at all, the call's end is its end.
        ends = (self.value[1], self.end, self.key[0]) if reader.lenient else (self.value[1],)
        while found == self.key[0]:
            key = Tag()
            if not (yield from source.until((self.key[1],), key.add, careful=True)):
                raise Cut
            yield from expect(source, self.value[0])
            text = key.text.strip()
            found = yield from arguments.read(text, arguments.types(text), Value(source, ends))
            if found == self.value[1]:
                found = yield from expect(source, self.key[0], self.end)
        arguments.end()
        reader.done(call)

    def write(self, grammar: CallGrammar) -> str:
        """See Form."""
        feed = '"\\n"?'

        def pair(name: str, key: str, schema: Mapping[str, Any]) -> str:
            begin, end = map(grammar.mark, self.key)
            head = f"{begin} {literal(key)} {end} {feed} {grammar.mark(self.value[0])}"
            if grammar.tools.types(name, key) == _STRING and "enum" not in schema:
                return f"{head} {grammar.free(self.value[1])} {feed}"
            strings = grammar.tools.types(name, key) == _STRING
            value = " | ".join(map(literal, schema["enum"])) if strings else grammar.json(schema)
            return f"{head} ({value}) {grammar.mark(self.value[1])} {feed}"

        def write(name: str) -> str:
            return f"{literal(name)} {feed} {grammar.parameters(name, partial(pair, name))}"

        return f"{grammar.mark(self.begins[0])} {grammar.each(write)} {grammar.mark(self.end)}"


def _write_tag(grammar: CallGrammar, begin: str, name: str, more: str = "") -> str:
    """`<function=name>`, or `<invoke name="name" more>`."""
    rest = f"{name}>" if begin.endswith("=") else f' name="{name}"{more}>'
    return f"{grammar.mark(begin)} {literal(rest)}"


class Tag:
    """The inside of a tag as it comes. Raises Malformed if it is too long for one."""

    def __init__(self) -> None:
        self.text = ""

    def add(self, text: str) -> None:
        """More of it."""
        self.text += text
        if len(self.text) > _LONGEST_TAG or "\n" in self.text:
            raise Malformed


def _read_tag(source: Input) -> Reading[str]:
    tag = Tag()
    if not (yield from source.until((">",), tag.add, careful=True)):
        raise Cut
    return tag.text


def _name(header: str) -> str:
    """The name in a tag: its attribute `name`, or all of it."""
    attributes = dict(_ATTRIBUTE.findall(header))
    name = attributes.get("name", header).strip().strip("\"'")
    if not name or (any(map(str.isspace, name)) and "name" not in attributes):
        raise Malformed
    return name


def _said_types(header: str) -> frozenset[str]:
    """What a tag says of its value: DeepSeek's `string="true"`."""
    said = dict(_ATTRIBUTE.findall(header)).get("string")
    return frozenset() if said is None else _STRING if said == "true" else frozenset({"json"})
