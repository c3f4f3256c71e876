"""Chat templates: Jinja2 sources that come with a checkpoint and turn messages into the model's prompt text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ellm.system.errors import InputError, PromptError, one_line
from ellm.system.limited_process import Ended
from ellm.text.messages import Forms, arranged
from ellm.text.template_process import PROCESS

_THINKING = ("enable_thinking", "thinking")  # variables by which templates switch it: true or false
_OWN = ("messages", "tools", "add_generation_prompt")  # variables that are arguments of their own


@dataclass(frozen=True)
class Conversation:
    """What a template is rendered with.

    Attributes:
        messages: dicts with `role` and `content`, as in the OpenAI API.
        add_generation_prompt: end with the words that open the assistant's answer.
        tools: JSON schemas of the functions that the model may call.
        variables: others of the template, such as `{"enable_thinking": False}`.
    """

    messages: Sequence[Mapping[str, Any]]
    add_generation_prompt: bool = True
    tools: Sequence[Any] | None = None
    variables: Mapping[str, Any] | None = None


class ChatTemplate:
    """A template. `tokens` are the names that it may use for special tokens, e.g. `{"bos_token": "<s>"}`.

    Templates are foreign code, so a process of their own renders them. What it is given must be what JSON can hold.
    All methods raise InputError, naming `source`, if the template does not compile or needs too much time or memory.
    """

    def __init__(self, text: str, tokens: dict[str, str], source: str):
        self.text = text
        self._tokens = tokens
        self._source = source

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return self._ask({"template": self.text})

    @property
    def variables(self) -> frozenset[str]:
        """The variables that it reads."""
        return frozenset(self._facts["variables"])

    def thinking(self, on: bool) -> dict[str, bool]:
        """The variables that switch the model's thinking on or off. Raises InputError if there are none."""
        found = {name: on for name in _THINKING if name in self.variables}
        if not found:
            raise InputError(
                f"{self._source}: chat_template has no switch for thinking ({', '.join(_THINKING)}); {self._others()}"
            )
        return found

    def arranged(self, conversation: Conversation) -> Conversation:
        """The conversation with messages in a form that the template takes.

        Raises InputError if they are malformed, or the template does not read a variable that was given.
        """
        given = conversation.variables or {}
        if not isinstance(given, Mapping):
            raise InputError(f"chat_template_kwargs must be a dict, not {one_line(repr(given))}")
        for name in given:
            if name in _OWN:
                raise InputError(f"{name} is no variable of chat_template_kwargs but an argument of its own")
            if name not in self.variables:
                unread = one_line(repr(name), 60)
                raise InputError(f"{self._source}: chat_template does not read {unread}; {self._others()}")
        forms = Forms(*(self._facts[name] for name in ("text", "parts", "objects", "preamble")))
        return replace(conversation, messages=arranged(conversation.messages, forms))

    def render(self, conversations: Sequence[Conversation]) -> list[str | InputError]:
        """The prompt texts of arranged conversations, rendered at the same time of day.

        Where the template refuses one or fails on it, the error is in its place.
        """
        replies = self._ask({"template": self.text, "variables": [*map(self._variables, conversations)]})
        return [
            reply["text"]
            if "text" in reply
            else PromptError(f"{self._source}: chat_template refuses the messages: {reply['error']}")
            for reply in replies
        ]

    def _variables(self, conversation: Conversation) -> dict[str, Any]:
        return {
            "documents": None,
            **self._tokens,
            **(conversation.variables or {}),
            "messages": conversation.messages,
            "tools": conversation.tools,
            "add_generation_prompt": conversation.add_generation_prompt,
        }

    def _others(self) -> str:
        names = sorted(self.variables - {*_OWN, "documents", *self._tokens} - {"raise_exception"})
        return f"it reads {', '.join(names)}" if names else "it reads no others than messages and tools"

    def _ask(self, request: dict[str, Any]) -> Any:
        try:
            reply = PROCESS.ask(as_json(request))
        except Ended as error:
            raise InputError(f"{self._source}: chat_template {error}") from error
        if "error" in reply:
            raise InputError(f"{self._source}: chat_template does not compile: {reply['error']}")
        return reply["result"]


def as_json(value: Any) -> str:
    """What is given to a template, as JSON. Raises InputError if JSON cannot hold it."""
    try:
        return json.dumps(value, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"what a chat_template is given must be JSON: {one_line(error)}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Conversation):
        return vars(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"not {type(value).__name__}")
