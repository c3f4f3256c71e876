"""Items of OpenAI's Responses: what a conversation is made of there, and what an answer becomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from ellm.server import bounds
from ellm.server.messages import Name, Parts
from ellm.server.response_tools import full_name
from ellm.server.validation import Body, Record, left_out, only

Status = Literal["in_progress", "completed", "incomplete"]


class InputMessage(Body):
    """One turn."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[InputPart], Field(max_length=bounds.PARTS)]
    id: Name | None = None
    status: Status | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class InputPart(Body):
    """A text of it, an answer's as it came."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: only(None, []) = None  # type: ignore[valid-type]
    logprobs: list[Any] | None = None


class ThoughtPart(Body):
    """A text of what was thought."""

    type: Literal["reasoning_text", "summary_text", "text"]
    text: str


class InputReasoning(Body):
    """What the model thought, sent back."""

    type: Literal["reasoning"]
    id: Name | None = None
    summary: Annotated[list[ThoughtPart], Field(max_length=bounds.PARTS)] | None = None
    content: Annotated[list[ThoughtPart], Field(max_length=bounds.PARTS)] | None = None
    encrypted_content: only(None, "") = None  # type: ignore[valid-type]
    status: Status | None = None


class InputCall(Body):
    """A call that the assistant made."""

    type: Literal["function_call"]
    call_id: Name
    namespace: Name | None = None
    name: Name
    arguments: str
    id: Name | None = None
    status: Status | None = None


class InputCallOutput(Body):
    """What came of it."""

    type: Literal["function_call_output"]
    call_id: Name
    output: str | Parts
    id: Name | None = None
    status: Status | None = None


def _kind(value: Any) -> Any:
    return value.get("type", "message") if isinstance(value, dict) else getattr(value, "type", None)


InputItem = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[InputReasoning, Tag("reasoning")]
    | Annotated[InputCall, Tag("function_call")]
    | Annotated[InputCallOutput, Tag("function_call_output")],
    Discriminator(_kind),
]


class OutputText(Record):
    """A text of an answer."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = Field(default_factory=list)
    logprobs: list[Any] = Field(default_factory=list)


class OutputMessage(Record):
    """What the model says."""

    type: Literal["message"] = "message"
    id: str
    role: Literal["assistant"] = "assistant"
    status: Status
    content: list[OutputText]


class OutputThought(Record):
    """A text of what it thought."""

    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


class OutputReasoning(Record):
    """What it thought before."""

    type: Literal["reasoning"] = "reasoning"
    id: str
    summary: list[Any] = Field(default_factory=list)
    content: list[OutputThought]
    status: Status | None = left_out()


class OutputCall(Record):
    """A call that it wants."""

    type: Literal["function_call"] = "function_call"
    id: str
    call_id: str
    namespace: str | None = left_out()
    name: str
    arguments: str
    status: Status


Item = OutputReasoning | OutputMessage | OutputCall


def conversation(instructions: str | None, given: str | Sequence[Any]) -> list[dict[str, Any]]:
    """In the form of `LLM.chat`: what the assistant thought, said and called in a row is one message there."""
    found: list[dict[str, Any]] = []
    if instructions:
        found.append({"role": "system", "content": instructions})
    if isinstance(given, str):
        return [*found, {"role": "user", "content": given}]
    for item in given:
        if isinstance(item, InputCallOutput):
            found.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
        elif isinstance(item, InputMessage) and item.role != "assistant":
            found.append({"role": "user" if item.role == "user" else "system", "content": _text(item.content)})
        else:
            _add(_assistant(found, item), item)
    return found


def _assistant(found: list[dict[str, Any]], item: Any) -> dict[str, Any]:
    """The assistant's message that an item belongs to; thoughts begin a new one."""
    if not found or found[-1]["role"] != "assistant" or isinstance(item, InputReasoning):
        found.append({"role": "assistant", "content": ""})
    return found[-1]


def _add(message: dict[str, Any], item: Any) -> None:
    if isinstance(item, InputMessage):
        message["content"] += _text(item.content)
    elif isinstance(item, InputReasoning):
        thoughts = "".join(part.text for part in item.content or item.summary or ())
        message |= {"reasoning_content": thoughts, "thinking": thoughts}
    else:
        call = {"name": full_name(item.namespace, item.name), "arguments": item.arguments}
        message.setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": call})


def _text(content: str | Sequence[Any]) -> str:
    return content if isinstance(content, str) else "\n".join(getattr(part, "text", "") for part in content)


InputMessage.model_rebuild()
