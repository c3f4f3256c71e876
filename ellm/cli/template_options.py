"""The options of `ellm run` that reach the chat template."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ellm.llm import LLM
from ellm.system.errors import InputError

_PYTHON = {"True": True, "False": False, "None": None}  # as texts they would all be true


@dataclass(frozen=True)
class TemplateOptions:
    """`think`: on, off or as the template does; `arguments`: variables of it; `special`: whether to parse prompts."""

    think: bool | None
    arguments: dict[str, Any]
    special: bool

    @property
    def given(self) -> bool:
        """Whether there are variables for the template."""
        return self.think is not None or bool(self.arguments)

    def of_chat(self, llm: LLM) -> dict[str, Any]:
        """The arguments of `Tokenizer.chat`. Raises InputError if the template has no switch for thinking."""
        variables = {} if self.think is None else llm.tokenizer.thinking(self.think)
        return {"chat_template_kwargs": {**variables, **self.arguments}, "parse_special": self.special}


def parse_arguments(texts: list[str]) -> dict[str, Any]:
    """KEY=VALUE with VALUE in JSON or Python's True, False and None, else a text. Raises InputError."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise InputError(f"--template-arg must be KEY=VALUE, not {text!r}")
        try:
            found[key] = _PYTHON[value] if value in _PYTHON else json.loads(value)
        except (ValueError, RecursionError):
            found[key] = value
    return found
