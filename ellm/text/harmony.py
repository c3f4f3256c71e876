"""Messages of gpt-oss: `<|channel|>NAME<|message|>...<|end|><|start|>assistant<|channel|>...`.

The channel `analysis` is reasoning; `final` and the preambles in `commentary` are the answer; what is said to a
function is a call (OpenAI, Harmony response format).
"""

from __future__ import annotations

import re

from ellm.text.argument_types import Tools
from ellm.text.call_grammar import CallGrammar, literal
from ellm.text.input import Reading
from ellm.text.json_values import read_value
from ellm.text.parser import Grammar
from ellm.text.piece import Kind

_CHANNEL, _MESSAGE, _START, _END = NEEDED = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>")
_CALL, _RETURN, _CONSTRAIN = "<|call|>", "<|return|>", "<|constrain|>"
MARKS = (*NEEDED, _CALL, _RETURN, _CONSTRAIN)
_ENDS = (_END, _CALL, _RETURN)
_RECIPIENT = re.compile(r"(?:^|\s)to=([^\s<]+)")
_FUNCTIONS = "functions."


def write(grammar: CallGrammar) -> str:
    """The rule of an answer that is a call, perhaps behind reasoning."""
    channel, message, start, end = map(grammar.mark, NEEDED)
    thought = f'{channel} "analysis" {message} {grammar.rule("/(?s:.*)/")} {end} {start} "assistant"'

    def write_call(name: str) -> str:
        head = f"{channel} {literal(f'commentary to={_FUNCTIONS}{name} ')} {grammar.mark(_CONSTRAIN)}"
        return f'{head} "json" {message} {grammar.arguments(name)}'

    return f"{grammar.rule(thought)}? {grammar.each(write_call)}"


class Harmony(Grammar):
    """See above. `_header` is what has come of a message's header."""

    def __init__(self, prompt: str, tools: Tools | None = None):
        """Go on where the text of a prompt ends: behind `<|start|>assistant`, or further into a message.

        Without tools, what is said to one is reasoning.
        """
        super().__init__(MARKS)
        self._tools = tools
        self._said: set[Kind] = set()
        _, start, message = prompt.rpartition(_START)
        header, begun, body = message.partition(_MESSAGE)
        self._begun = bool(begun) and not any(mark in body for mark in _ENDS)
        self._header = header if start and (self._begun or not begun) else ""
        self.inside = self._begun and self._kind() == "reasoning"
        self.answering = self._begun and self._kind() == "answer"
        self._marked = False  # whether the answer has any mark
        self._joining = False  # whether the next text is not the first of its kind

    def _parse(self) -> Reading[None]:
        while self._begun or (yield from self._read_header()):
            self._begun = False
            yield from self._read_message()

    def _read_header(self) -> Reading[bool]:
        """A header, up to its message. False if the answer ended before."""
        parts: list[str] = []
        while True:
            found = yield from self.input.until((_MESSAGE, _START, *_ENDS), parts.append)
            text = "".join(parts)
            self._marked |= bool(found) or _CHANNEL in text
            if found == _MESSAGE:
                self._header += text
                return True
            self._say(text, "rest" if self._marked else "answer")  # a model that knows no channels writes no marks
            self._header = ""
            parts.clear()
            if not found:
                return False

    def _read_message(self) -> Reading[None]:
        name, ends = self._function(), (*_ENDS, _START, _CHANNEL)
        if name is not None:
            yield from self._attempt(lambda: self._read_call(name), self._header + _MESSAGE, "answer")
            found = yield from self.input.until(ends, self._leave)
        else:
            kind = self._kind()
            self.inside, self.answering, self._joining = kind == "reasoning", kind == "answer", kind in self._said
            found = yield from self.input.until(ends, lambda text: self._speak(text, kind))
        self.inside, self.answering, self._marked = False, False, True
        self._header = _CHANNEL if found == _CHANNEL else ""

    def _read_call(self, name: str) -> Reading[None]:
        call = self.call(name)
        yield from read_value(self.input, call.add)
        self.done(call)

    def _function(self) -> str | None:
        """The name of the function that the message is for."""
        recipient = self._recipient()
        if recipient is None or self._tools is None:
            return None
        if recipient.startswith(_FUNCTIONS):
            return recipient.removeprefix(_FUNCTIONS) or None
        return recipient if recipient in self._tools else None

    def _recipient(self) -> str | None:
        found = _RECIPIENT.search(self._header.replace("<|", " <|"))
        return found[1] if found else None

    def _kind(self) -> Kind:
        """What the text of the message is."""
        channel = self._header.rpartition(_CHANNEL)[2].split()
        if self._recipient() is None:
            return "reasoning" if channel[:1] == ["analysis"] else "answer"
        return "reasoning" if self._tools is None or channel[:1] == ["analysis"] else "rest"

    def _speak(self, text: str, kind: Kind) -> None:
        """A part of a message. Messages of a kind are paragraphs."""
        if self._joining:
            self._say("\n\n", kind)
        self._joining = False
        self._said.add(kind)
        self._say(text, kind)

    def _leave(self, text: str) -> None:
        self._say(text, "rest")
