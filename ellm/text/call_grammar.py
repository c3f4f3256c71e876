"""The text of a grammar that an answer which must be a call keeps to, in Lark's form as llguidance has it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from ellm.text.argument_types import Tools

_SHARED = ("$defs", "definitions")  # what a schema within another one may refer to


class CallGrammar:
    """Collects the rules of a grammar of calls.

    Attributes:
        tools: that may be called.
        names: of those that may be called now.
    """

    def __init__(self, tools: Tools, names: list[str], tokens: Mapping[str, int]):
        """Let some tools be called; `tokens` are the ids of marks that are tokens."""
        self.tools, self.names = tools, names
        self._tokens = tokens
        self._rules: list[str] = []

    def text(self, start: str) -> str:
        """The grammar whose first rule is `start`."""
        return "\n".join([f"start: {start}", *self._rules]) + "\n"

    def each(self, write: Callable[[str], str]) -> str:
        """Any one of what `write` makes of each name."""
        return self.rule(" | ".join(map(write, self.names)))

    def rule(self, body: str, options: str = "", name: str = "") -> str:
        """A rule; its name."""
        name = name or f"r{len(self._rules)}"
        self._rules.append(f"{name}{options}: {body}")
        return name

    def mark(self, text: str) -> str:
        """A mark: the token, if it is one."""
        return f"<[{self._tokens[text]}]>" if text in self._tokens else literal(text)

    def arguments(self, name: str) -> str:
        """The arguments of a tool, as a JSON object: those that its schema names, if it does."""
        schema = self.tools.parameters(name)
        named = isinstance(schema.get("properties"), Mapping) and "patternProperties" not in schema
        return self.json({**({"additionalProperties": False} if named else {}), "type": "object", **schema})

    def json(self, schema: Mapping[str, Any]) -> str:
        """A JSON value."""
        return self.rule(f"%json {json.dumps(schema)}")

    def free(self, end: str, before: str = "") -> str:
        """Any text, up to and with a mark, before which something may have to be."""
        if end in self._tokens:
            return f"{self.rule('/(?s:.*)/')} {self.mark(end)}"
        return self.rule(f"/(?s:.*){_escaped(before + end)}/", "[lazy]")

    def parameters(self, name: str, write: Callable[[str, Mapping[str, Any]], str]) -> str:
        """What `write` makes of the key and the schema of each argument, in turn, if it has to be there or not."""
        root = self.tools.parameters(name)
        properties, required = root.get("properties"), root.get("required")
        properties = properties if isinstance(properties, Mapping) else {}
        required = required if isinstance(required, list) else []
        shared = {key: root[key] for key in _SHARED if key in root}
        rules = [
            self.rule(write(key, {**schema, **shared} if isinstance(schema, Mapping) else {}))
            + ("" if key in required else "?")
            for key, schema in properties.items()
        ]
        return " ".join(rules) or '""'


def literal(text: str) -> str:
    """A text as it is."""
    return json.dumps(text, ensure_ascii=False)


def _escaped(text: str) -> str:
    return re.sub(r"[\\.+*?()|\[\]{}^$/]", r"\\\g<0>", text).replace("\n", "\\n")
