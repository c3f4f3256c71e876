"""Reads JSON within an answer, as it comes."""

from __future__ import annotations

import re

from ellm.text.call import Call, Cut, Malformed
from ellm.text.input import Input, Reading, Sink
from ellm.text.strict_json import escaped, loads

_DEEPEST = 256
_WITHIN = re.compile(r'["\\\x00-\x1f]')  # a string, what is not itself
_BETWEEN = re.compile(r'["{}\[\]]|[^\s,:{}\[\]"\-+.0-9eEtrufalsn]')  # strings: what opens, closes or cannot be
_ENDS = '"\\'
_SCALAR = re.compile(r"[-+.0-9eEtrufalsn]*")
_NAME, _ARGUMENTS, _FUNCTION = "name", ("arguments", "parameters"), "function"


def read_value(input: Input, sink: Sink) -> Reading[None]:
    """Hand on a JSON value, and what it holds as it comes; control characters in strings are escaped.

    Brackets are counted, no more. Raises Malformed for what cannot be a value, Cut if the answer ends before it does.
    """
    yield from input.space()
    first = (yield from _some(input))[0]
    if first in '{["':
        yield from _read_nested(input, sink)
        return
    text = yield from _read_scalar(input)
    if not text:
        raise Malformed
    sink(text)


def read_string(input: Input) -> Reading[str]:
    """A JSON string, decoded. Raises Malformed and Cut."""
    if (yield from _some(input))[0] != '"':
        raise Malformed
    parts: list[str] = []
    yield from _read_nested(input, parts.append)
    try:
        text: str = loads("".join(parts))
        _ = text.encode()  # half a surrogate pair is no text
    except ValueError:
        raise Malformed from None
    return text


def read_character(input: Input, wanted: str) -> Reading[bool]:
    """Read white space, and one of the wanted characters if it is next. Raises Cut at the end."""
    yield from input.space()
    found = (yield from _some(input))[0] in wanted
    if found:
        input.take(1)
    return found


def read_call(input: Input, call: Call, strict: bool) -> Reading[None]:
    """A call that is an object with `name`, and `arguments` or `parameters`. Raises Malformed and Cut.

    With `strict`, an object that has other members is none.
    """
    if not (yield from read_character(input, "{")):
        raise Malformed
    given = yield from _read_members(input, call, strict)
    if not given:
        call.add("{}")


def _read_members(input: Input, call: Call, strict: bool) -> Reading[bool]:
    """The members of an object, up to its end; whether arguments were among them."""
    given = False
    while not (yield from read_character(input, "}")):
        _ = yield from read_character(input, ",")
        yield from input.space()
        key = yield from read_string(input)
        if not (yield from read_character(input, ":")):
            raise Malformed
        yield from input.space()
        first = (yield from _some(input))[0]
        if key == _NAME and first == '"':
            call.name = yield from read_string(input)
        elif key in _ARGUMENTS and not given:
            yield from _read_arguments(input, call, first)
            given = True
        elif key == _FUNCTION and first == "{":
            input.take(1)
            given |= yield from _read_members(input, call, strict)
        elif strict and key not in ("type", "id"):
            raise Malformed
        else:
            yield from read_value(input, lambda text: None)
    return given


def _read_arguments(input: Input, call: Call, first: str) -> Reading[None]:
    """An object, or the text of one."""
    if first == "{":
        yield from read_value(input, call.add)
    elif first == '"':
        call.add((yield from read_string(input)))
    elif (yield from input.accept("null")):
        call.add("{}")
    else:
        raise Malformed


def _some(input: Input) -> Reading[str]:
    text = yield from input.peek()
    if not text:
        raise Malformed if (yield from input.wait()) else Cut
    return text


def _read_scalar(input: Input) -> Reading[str]:
    read = []
    while text := (yield from input.peek()):
        found = _SCALAR.match(text)
        assert found is not None
        if found.end():
            read.append(input.take(found.end()))
        if found.end() < len(text):
            break
    return "".join(read)


def _read_nested(input: Input, sink: Sink) -> Reading[None]:
    state = _Nested()
    while not state.done:
        text = yield from input.peek()
        if text:
            end, shown = state.scan(text)
            if end:
                input.take(end)
            if state.wrong:
                raise Malformed
            sink(shown)
        elif not (yield from input.wait()):
            raise Cut
        elif state.within:
            sink(escaped((yield from input.next())[0]))
            state.behind = False
        else:
            raise Malformed


class _Nested:
    """How far a string, a list or an object is read.

    Attributes:
        within: in a string.
        behind: a backslash.
        done: it is at its end.
        wrong: what comes next cannot be.
    """

    def __init__(self) -> None:
        self.within = self.behind = self.done = self.wrong = False
        self._depth = 0

    def scan(self, text: str) -> tuple[int, str]:
        """How many characters of a text belong to it, and these, control characters in strings escaped."""
        at = shown = 0
        parts: list[str] = []
        while at < len(text) and not (self.done or self.wrong):
            if self.behind:
                at, self.behind = at + 1, False
                continue
            found = (_WITHIN if self.within else _BETWEEN).search(text, at)
            if found is None:
                at = len(text)
                break
            at = found.end()
            if self.within and found[0] not in _ENDS:
                parts += [text[shown : at - 1], escaped(found[0])]
                shown = at
            else:
                at -= not self._take(found[0])
        return at, "".join([*parts, text[shown:at]])

    def _take(self, character: str) -> bool:
        """Go on behind one that matters; whether it may stand here."""
        if character == "\\":
            self.behind = True
        elif character == '"':
            self.within = not self.within
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
        else:
            self.wrong = True
        self.wrong |= self._depth > _DEEPEST
        self.done = not (self._depth or self.within or self.behind or self.wrong)
        return not self.wrong
