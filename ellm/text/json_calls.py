"""Forms of calls whose arguments are JSON."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ellm.text.argument_types import Tools
from ellm.text.call import Cut, Malformed
from ellm.text.call_form import Name, Reader, nowhere
from ellm.text.call_grammar import CallGrammar, literal
from ellm.text.input import Input, Reading
from ellm.text.json_values import read_call, read_character, read_value

_FENCES = ("```json", "```")


@dataclass(frozen=True)
class Objects:
    """Objects with `name` and `arguments` (or `parameters`), one or several, also in a list."""

    begins: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    sections: tuple[tuple[str, str], ...] = ()
    bare: str = ""  # "{": an answer that begins with a call of a tool that was offered
    forgiving: bool = False

    @property
    def marks(self) -> tuple[str, ...]:
        """See Form."""
        return (*self.begins, *self.ends, *sum(self.sections, ()))

    def read(self, reader: Reader, begin: str, tools: Tools) -> Reading[None]:
        """See Form."""
        yield from _read_objects(reader, None if begin else tools)
        yield from _read_end(reader.input, self.ends)

    def write(self, grammar: CallGrammar) -> str:
        """See Form."""
        objects = grammar.each(lambda name: _write_object(grammar, name, "parameters" if self.bare else "arguments"))
        if self.bare:
            return objects
        return f'{grammar.mark(self.begins[0])} "\\n" {objects} "\\n" {grammar.mark(self.ends[0])}'


@dataclass(frozen=True)
class Named:
    """A name, a mark and an object: `[TOOL_CALLS]name[ARGS]{...}`."""

    begins: tuple[str, ...]
    before_arguments: str
    ends: tuple[str, ...] = ()
    sections: tuple[tuple[str, str], ...] = ()
    before_id: str = ""  # what ends the name if an id follows it
    name: str = r"(.+)"  # the pattern of what stands for the name
    name_is_id: bool = False  # whether the whole of that is the call's id
    fenced: bool = False  # or: `function`, the mark, the name, a line feed and the object between fences
    writes_fences: bool = False  # whether the model prefers that
    or_objects: bool = False  # or: objects behind `begins`
    bare: str = ""
    forgiving: bool = False

    @property
    def marks(self) -> tuple[str, ...]:
        """See Form."""
        return (*self.begins, self.before_arguments, self.before_id, *self.ends, *sum(self.sections, ()))

    def read(self, reader: Reader, begin: str, tools: Tools) -> Reading[None]:
        """See Form."""
        source = reader.input
        yield from source.space()
        if self.or_objects and (yield from source.peek())[:1] in ("[", "{"):
            yield from _read_objects(reader, None)
            return
        name = yield from self._read_name(source)
        yield from source.space()
        fenced = self.fenced and (yield from source.peek())[:1] != "{"
        if fenced:
            name = yield from _read_line(source)
            yield from source.accept(*_FENCES)
        match = re.fullmatch(self.name, name)
        if match is None:
            raise Malformed
        call = reader.call(match[1])
        call.id = name if self.name_is_id else None
        yield from read_value(source, call.add)
        reader.done(call)
        if fenced:
            yield from _read_end(source, _FENCES)
        yield from _read_end(source, self.ends)

    def write(self, grammar: CallGrammar) -> str:
        """See Form."""
        begin, middle = grammar.mark(self.begins[0]), grammar.mark(self.before_arguments)
        ends = " ".join(map(grammar.mark, self.ends))

        def write(name: str) -> str:
            arguments = grammar.arguments(name)
            if self.writes_fences:
                return f'"function" {middle} {literal(name + chr(10))} "```json\\n" {arguments} "\\n```"'
            written = f"{literal('functions.' + name + ':')} /[0-9]+/" if self.name_is_id else literal(name)
            return f"{written} {middle} {arguments}"

        return f"{begin} {grammar.each(write)} {ends}"

    def _read_name(self, source: Input) -> Reading[str]:
        name, marks = Name(), (self.before_arguments, *([self.before_id] if self.before_id else []), "{")
        found = yield from source.until(marks, name.add, careful=True)
        if found and found == self.before_id:
            found = yield from source.until((self.before_arguments,), nowhere)
        if not found:
            raise Cut
        if found == "{":
            source.put_back("{")
        return name.whole


def _write_object(grammar: CallGrammar, name: str, key: str) -> str:
    head = f'{{"name": {literal(name)}, "{key}": '
    return f'{literal(head)} {grammar.arguments(name)} "}}"'


def _read_objects(reader: Reader, offered: Tools | None) -> Reading[None]:
    """Objects, or a list of them. With `offered` they must be calls of these tools and nothing else."""
    yield from read_character(reader.input, "[")
    while True:
        call = reader.call()
        yield from read_call(reader.input, call, strict=offered is not None)
        if offered is not None and call.name not in offered:
            raise Malformed
        reader.done(call)
        yield from _read_end(reader.input, (",", ";", "]"))
        yield from reader.input.space()
        if not (yield from reader.input.peek()).startswith("{"):
            return


def _read_line(source: Input) -> Reading[str]:
    name = Name()
    if not (yield from source.until(("\n",), name.add, careful=True)):
        raise Cut
    yield from source.space()
    return name.whole


def _read_end(source: Input, marks: tuple[str, ...]) -> Reading[None]:
    """White space and one of some marks, if they are there."""
    yield from source.space()
    yield from source.accept(*marks)
