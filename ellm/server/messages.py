"""Messages of a conversation in OpenAI's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from ellm.server import bounds
from ellm.server.validation import Body, only

Name = Annotated[str, Field(max_length=bounds.NAME_CHARACTERS)]


class TextPart(Body):
    """A part of a message. There are no others: nothing is fetched, and ellm reads text alone."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class RefusalPart(Body):
    """What a model said to refuse."""

    type: Literal["refusal"]
    refusal: str


Parts = Annotated[list[TextPart | RefusalPart], Field(max_length=bounds.PARTS)]


class Function(Body):
    """The function of a call, and its arguments as JSON."""

    name: Name
    arguments: str | dict[str, Any]


class ToolCall(Body):
    """A call that the assistant made."""

    id: Name | None = None
    type: Literal["function"] = "function"
    function: Function
    index: int | None = None


class Message(Body):
    """One turn. An answer may be sent back as it came."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Parts | None = None
    name: Name | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=bounds.TOOLS)] | None = None
    tool_call_id: Name | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    annotations: only(None, []) = None  # type: ignore[valid-type]
    audio: only(None) = None  # type: ignore[valid-type]
    function_call: only(None) = None  # type: ignore[valid-type]


def conversation(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """In the form of `LLM.chat`."""
    return [_plain(message) for message in messages]


def _plain(message: Message) -> dict[str, Any]:
    found = message.model_dump(exclude_none=True)
    if found["role"] == "developer":  # the newer name, which few templates know
        found["role"] = "system"
    found.setdefault("content", found.pop("refusal", "" if message.role != "assistant" else None))
    thought = found.pop("reasoning", None)
    if thought is not None or "reasoning_content" in found:  # by the names of most templates, and of gpt-oss
        found.setdefault("reasoning_content", thought)
        found["thinking"] = found["reasoning_content"]
    for call in found.get("tool_calls", ()):
        call.pop("index", None)
    return found
