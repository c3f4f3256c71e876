"""Messages of a conversation in Anthropic's form: blocks of content, tools' results among the user's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from ellm.server import bounds
from ellm.server.errors import ApiError
from ellm.server.messages import Name
from ellm.server.validation import Body, only

CacheControl = dict[str, str | int]  # prefixes are cached whatever it says

_BLOCKS = {"user": ("text", "tool_result"), "assistant": ("text", "thinking", "tool_use"), "system": ("text",)}


class TextBlock(Body):
    """Text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: only(None, []) = None  # type: ignore[valid-type]


class ThinkingBlock(Body):
    """What the model thought, sent back."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None
    cache_control: CacheControl | None = None


class ToolUseBlock(Body):
    """A call that the assistant made."""

    type: Literal["tool_use"]
    id: Name
    name: Name
    input: dict[str, Any]
    cache_control: CacheControl | None = None


class ToolResultBlock(Body):
    """What came of it."""

    type: Literal["tool_result"]
    tool_use_id: Name
    content: str | Annotated[list[TextBlock], Field(max_length=bounds.PARTS)] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


def _kind(value: Any) -> Any:
    return value.get("type") if isinstance(value, dict) else getattr(value, "type", None)


Block = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ThinkingBlock, Tag("thinking")]
    | Annotated[ToolUseBlock, Tag("tool_use")]
    | Annotated[ToolResultBlock, Tag("tool_result")],
    Discriminator(_kind),
]


class AnthropicMessage(Body):
    """One turn, or what the system says between turns."""

    role: Literal["user", "assistant", "system"]
    content: str | Annotated[list[Block], Field(max_length=bounds.PARTS)]


class AnthropicTool(Body):
    """A function that the model may call, and the JSON schema of its input. The client runs it."""

    type: Literal["custom"] | None = None
    name: Annotated[Name, Field(min_length=1)]
    description: str | None = None
    input_schema: dict[str, Any]
    cache_control: CacheControl | None = None
    strict: bool | None = None
    eager_input_streaming: bool | None = None


class AnthropicToolChoice(Body):
    """Whether to call any."""

    type: Literal["auto", "none", "any", "tool"]
    name: Name | None = None
    disable_parallel_tool_use: bool | None = None

    def openai(self) -> str | dict[str, Any]:
        """In the form of `LLM.chat`."""
        if self.type == "tool":
            return {"type": "function", "function": {"name": self.name or ""}}
        return "required" if self.type == "any" else self.type


def offered(tools: Sequence[AnthropicTool] | None) -> list[dict[str, Any]]:
    """In the form of `LLM.chat`."""
    functions = [
        {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema}
        for tool in tools or ()
    ]
    return [{"type": "function", "function": function} for function in functions]


def conversation(
    system: str | Sequence[TextBlock] | None, messages: Sequence[AnthropicMessage]
) -> list[dict[str, Any]]:
    """In the form of `LLM.chat`. Raises ApiError for a block that is not one of its role."""
    found: list[dict[str, Any]] = []
    if system:
        found.append({"role": "system", "content": _text(system)})
    for at, message in enumerate(messages):
        if isinstance(message.content, str):
            found.append({"role": message.role, "content": message.content})
            continue
        _check(message.role, message.content, f"messages[{at}]")
        found += _TURNS[message.role](message.content)
    return found


def _check(role: str, blocks: Sequence[Any], where: str) -> None:
    allowed = _BLOCKS[role]
    for at, block in enumerate(blocks):
        if block.type not in allowed:
            param = f"{where}.content[{at}].type"
            raise ApiError(400, f"{param}: {role} has {' and '.join(allowed)}, not {block.type}", param=param)


def _text(content: str | Sequence[TextBlock]) -> str:
    return content if isinstance(content, str) else "\n".join(block.text for block in content)


def _assistant(blocks: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """One message of all blocks: templates take thoughts, words and calls of a turn together."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(one.text for one in blocks if one.type == "text"),
    }
    thoughts = "".join(one.thinking for one in blocks if one.type == "thinking")
    if thoughts:
        message |= {"reasoning_content": thoughts, "thinking": thoughts}
    calls = [one for one in blocks if one.type == "tool_use"]
    if calls:
        message["tool_calls"] = [
            {"id": one.id, "type": "function", "function": {"name": one.name, "arguments": json.dumps(one.input)}}
            for one in calls
        ]
    yield message


def _user(blocks: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Results of tools as messages of their own, and the texts between them."""
    texts: list[str] = []
    for block in blocks:
        if block.type == "text":
            texts.append(block.text)
        elif block.type == "tool_result":
            if texts:
                yield {"role": "user", "content": "\n".join(texts)}
                texts = []
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": _text(block.content or "")}
    if texts or not any(block.type == "tool_result" for block in blocks):
        yield {"role": "user", "content": "\n".join(texts)}


def _system(blocks: Sequence[Any]) -> Iterator[dict[str, Any]]:
    yield {"role": "system", "content": _text(blocks)}


_TURNS = {"user": _user, "assistant": _assistant, "system": _system}
