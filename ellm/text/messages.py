"""Conversations in the form that a chat template takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ellm.system.errors import PromptError, one_line

_REASONING = ("reasoning_content", "thinking", "reasoning")  # by the names of most templates, of gpt-oss, of servers
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")


@dataclass(frozen=True)
class Forms:
    """What a template takes: see `template_engine`."""

    text: bool  # content that is a text
    parts: bool  # content that is a list of parts
    objects: bool  # arguments of tool calls as objects; else as JSON
    preamble: bool  # content beside reasoning and calls; else it is joined with the reasoning


def arranged(messages: Any, forms: Forms) -> list[dict[str, Any]]:
    """The messages with content and arguments of tool calls in a form that the template takes.

    Parts go to templates that take them, else their texts are joined with line feeds, as vLLM and llama.cpp do.
    Raises PromptError for what a template would turn into nonsense without a word.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise PromptError(f"a conversation must be a list of messages, not {one_line(repr(messages))}")
    return [_message(message, forms) for message in messages]


def _message(message: Any, forms: Forms) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise PromptError(f"a message must have a role and its content, not {one_line(repr(message))}")
    found = dict(message)
    if found.get("content") is not None:
        found["content"] = _content(found["content"], forms)
    if found.get("tool_calls"):
        found["tool_calls"] = [_tool_call(call, forms) for call in _list(found["tool_calls"], "tool_calls")]
    thought = next((found[name] for name in _REASONING if isinstance(found.get(name), str)), None)
    if found["role"] == "assistant" and thought is not None:
        said = found.get("content")
        if said and thought and found.get("tool_calls") and not forms.preamble:
            thought, found["content"] = f"{thought}\n\n{said}" if isinstance(said, str) else thought, ""
        found |= dict.fromkeys(_REASONING[:2], thought)
    return found


def _content(content: Any, forms: Forms) -> Any:
    texts = [content] if isinstance(content, str) else [_part(part) for part in _list(content, "the content")]
    as_text = len(texts) == 1 if forms.text else not forms.parts
    if as_text or not forms.parts:
        return "\n".join(texts)
    return [{"type": "text", "text": text} for text in texts]


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, Mapping) else None
    text = part.get("refusal" if kind == "refusal" else "text") if isinstance(part, Mapping) else None
    if isinstance(kind, str) and kind not in _TEXT_PARTS:
        kind = one_line(kind, 40)
        raise PromptError(f"a part of the content of a message is of type {kind!r}, ellm reads text alone")
    if not isinstance(text, str):
        raise PromptError(f"a part of the content of a message must have a text, not {one_line(repr(part))}")
    return text


def _list(value: Any, what: str) -> Sequence[Any]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        kind = "text or a list of parts" if what == "the content" else "a list"
        raise PromptError(f"{what} of a message must be {kind}, not {one_line(repr(value))}")
    return value


def _tool_call(call: Any, forms: Forms) -> Any:
    """The call; its arguments may stand in `function`, as in the OpenAI API, or in the call itself."""
    if not isinstance(call, Mapping):
        raise PromptError(f"a tool call must be an object, not {one_line(repr(call))}")
    found = dict(call)
    if "arguments" in found:
        found["arguments"] = _arguments(found["arguments"], forms)
    if isinstance(found.get("function"), Mapping):
        found["function"] = _tool_call(found["function"], forms)
    return found


def _arguments(arguments: Any, forms: Forms) -> Any:
    if not forms.objects:
        return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    if not isinstance(arguments, str):
        return arguments
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise PromptError(f"arguments of a tool call are not JSON: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise PromptError(f"arguments of a tool call must be an object, not {one_line(arguments)}")
    return value
