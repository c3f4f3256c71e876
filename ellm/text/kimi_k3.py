"""Answers of Kimi K3: elements `<|open|>tag<|sep|>...<|close|>tag<|sep|>`, which are think, response and tools."""

from __future__ import annotations

import re
from collections.abc import Collection

from ellm.text.argument_types import Tools
from ellm.text.call import Cut, Malformed
from ellm.text.call_form import Name, expect
from ellm.text.input import Reading
from ellm.text.parser import Grammar
from ellm.text.piece import Kind
from ellm.text.tagged_calls import Arguments, Tag, Value

_OPEN, _CLOSE, _SEP = MARKS = ("<|open|>", "<|close|>", "<|sep|>")
_ATTRIBUTE = re.compile(r'([\w-]+)="([^"]*)"')
_THINK, _RESPONSE, _TOOLS = "think", "response", "tools"
_KINDS: dict[str, Kind] = {_THINK: "reasoning", _TOOLS: "rest"}
_TYPES = {"string": frozenset({"string"})}


class KimiK3(Grammar):
    """See above."""

    def __init__(self, prompt: str, tools: Tools | None, special: Collection[str]):
        """Go on where the text of a prompt ends, behind the tag of an element. Without tools no calls are read."""
        super().__init__(MARKS, special if tools is not None else ())
        self._tools = tools
        self._element = next((one for one in (_THINK, _RESPONSE) if prompt.endswith(f"{_OPEN}{one}{_SEP}")), "")
        self.inside, self.answering = self._element == _THINK, self._element == _RESPONSE

    def _parse(self) -> Reading[None]:
        while found := (yield from self.input.until((_OPEN, _CLOSE), self._text, hidden=True)):
            yield from self._read_element(found)
            self.inside, self.answering = self._element == _THINK, self._element == _RESPONSE

    def _read_element(self, found: str) -> Reading[None]:
        """The rest of a tag, and the call that it may begin."""
        tag, tools = Tag(), self._tools
        try:
            ended = not (yield from self.input.until((_SEP,), tag.add, careful=True))
        except Malformed:
            self._say(found + tag.text, "answer")
            return
        word = tag.text.split(" ", 1)[0]
        if ended:
            self._say(found + tag.text, "rest")
        elif found == _OPEN and word == "call" and self._element == _TOOLS and tools is not None:
            yield from self._attempt(lambda: self._read_call(tag.text, tools), f"{found}{tag.text}{_SEP}", "answer")
        elif word in (_THINK, _RESPONSE, _TOOLS):
            self._element = word if found == _OPEN else ""

    def _read_call(self, tag: str, tools: Tools) -> Reading[None]:
        source = self.input
        call = self.call(_attributes(tag).get("tool") or None)
        arguments = Arguments(call, tools)
        while True:
            found = yield from expect(source, _OPEN, _CLOSE)
            inner = Tag()
            if not (yield from source.until((_SEP,), inner.add, careful=True)):
                raise Cut
            if found == _CLOSE:
                break
            said = _attributes(inner.text)
            value = Value(source, (_CLOSE,))
            yield from arguments.read(said.get("key", ""), _TYPES.get(said.get("type", "string")), value)
            if not (yield from source.until((_SEP,), Name().add, careful=True)):
                raise Cut
        arguments.end()
        self.done(call)

    def _text(self, text: str) -> None:
        self._say(text, _KINDS.get(self._element, "answer"))


def _attributes(tag: str) -> dict[str, str]:
    return {key: value.replace("&quot;", '"').replace("&amp;", "&") for key, value in _ATTRIBUTE.findall(tag)}
