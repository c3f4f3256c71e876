"""What an answer must be like: a schema, an expression, one of some texts, or a grammar. Names are vLLM's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ellm.system.errors import InputError, one_line

MOST_BYTES = 64 << 10  # of a schema, an expression, choices or a grammar


@dataclass(frozen=True)
class StructuredOutputs:
    """One of these. Raises InputError for none or several, and for what is too long or has the wrong type.

    A schema, an expression or a grammar is read when a request has it: InputError then, if llguidance cannot.
    """

    json: str | Mapping[str, Any] | None = None  # a JSON schema, as text or parsed
    regex: str | None = None  # a regular expression that all of the answer matches, as Rust's regex has them
    choice: Sequence[str] | None = None  # texts, of which the answer is one
    grammar: str | None = None  # a grammar in Lark's form, as llguidance has it, or in GBNF

    def __post_init__(self) -> None:
        given = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        if len(given) != 1:
            named = f"{' and '.join(given)} are given" if given else "none is given"
            raise InputError(f"structured_outputs must be one of json, regex, choice and grammar, {named}")
        if self.choice is not None:
            self._check_choice(self.choice)
        for name in ("regex", "grammar"):
            text = getattr(self, name)
            if text is not None and (not isinstance(text, str) or not text.strip()):
                raise InputError(f"structured_outputs: {name} must be a text that is not empty, not {_short(text)}")
        if self.json is not None and not isinstance(self.json, str | Mapping):
            raise InputError(f"structured_outputs: json must be a JSON schema, not {_short(self.json)}")
        if (size := len(self.text.encode(errors="replace"))) > MOST_BYTES:
            raise InputError(f"structured_outputs: {self.kind} has {size} bytes, at most {MOST_BYTES} are allowed")

    def _check_choice(self, choice: Any) -> None:
        texts = choice if isinstance(choice, Sequence) and not isinstance(choice, str | bytes) else ()
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise InputError(f"structured_outputs: choice must be a list of texts, none empty, not {_short(choice)}")

    @property
    def kind(self) -> str:
        """Which of them it is."""
        return next(field.name for field in fields(self) if getattr(self, field.name) is not None)

    @property
    def text(self) -> str:
        """It as one text; a schema and choices as JSON."""
        value = getattr(self, self.kind)
        if isinstance(value, str):
            return value
        try:
            return json.dumps(value if self.kind == "json" else list(value))
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"structured_outputs: {self.kind} is no JSON: {one_line(error)}") from error


def _short(value: Any) -> str:
    return one_line(repr(value), 60)
