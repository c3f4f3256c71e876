"""Chat templates: Jinja2 sources that come with a checkpoint and turn messages into the model's prompt text.

The environment is the one that Hugging Face templates are written for (transformers, utils/chat_template_utils.py):
sandboxed, block whitespace trimmed, `break` and `continue`, `{% generation %}`, and the names `raise_exception`,
`strftime_now` and `tojson`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ellm.system.errors import InputError, one_line


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here its body is just text."""

    tags = {"generation"}  # noqa: RUF012 - the attribute that Jinja2 reads

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _check(messages: Any) -> None:
    """Raise InputError for what a template would turn into nonsense without a word."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise InputError(f"a conversation must be a list of messages, not {one_line(repr(messages))}")
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InputError(f"a message must have a role and its content, not {one_line(repr(message))}")
        if not isinstance(message.get("content"), str | None):
            raise InputError(f"the content of a message must be text, not {one_line(repr(message['content']))}")


class ChatTemplate:
    """A compiled template. `tokens` are the names that it may use for special tokens, e.g. `{"bos_token": "<s>"}`.

    Raises InputError, naming `source`, if the template does not compile.
    """

    def __init__(self, text: str, tokens: dict[str, str], source: str):
        self.text = text
        self._tokens = tokens
        self._source = source
        try:
            self._template = _environment().from_string(text)
        except Exception as error:  # also what Python raises for code that is nested too deeply
            raise InputError(f"{source}: chat_template does not compile: {one_line(error)}") from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        tools: Sequence[Any] | None = None,
    ) -> str:
        """The prompt text of a conversation.

        Args:
            messages: dicts with `role` and `content`, as in the OpenAI API.
            add_generation_prompt: end with the words that open the assistant's answer.
            tools: JSON schemas of the functions that the model may call.

        Raises:
            InputError: the messages are malformed, or the template refuses them or fails on them.
        """
        _check(messages)
        try:
            return self._template.render(
                messages=list(messages),
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._tokens,
            )
        except Exception as error:  # a template is foreign code: it can fail in any way
            raise InputError(f"{self._source}: chat_template refuses the messages: {one_line(error)}") from error
