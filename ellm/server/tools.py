"""Tools that a request offers, and calls of them, in OpenAI's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from ellm.server import bounds
from ellm.server.messages import Name
from ellm.server.validation import Body, Record, left_out
from ellm.serving.output import ToolCall

Schema = dict[str, Any]


class OfferedFunction(Body):
    """A function and the JSON schema of its parameters."""

    name: Annotated[Name, Field(min_length=1)]
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class OfferedTool(Body):
    """A tool that the model may call. All are functions: the client runs them."""

    type: Literal["function"]
    function: OfferedFunction


class NamedFunction(Body):
    """The function that must be called."""

    name: Annotated[Name, Field(min_length=1)]


class NamedTool(Body):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


Tools = Annotated[list[OfferedTool], Field(max_length=bounds.TOOLS)]


class CallFunction(Record):
    """The function of a call and its arguments, a JSON object as text."""

    name: str
    arguments: str


class CallRecord(Record):
    """A call that the model wants."""

    id: str
    type: Literal["function"] = "function"
    function: CallFunction


class DeltaFunction(Record):
    """What is new of one."""

    name: str | None = left_out()
    arguments: str


class DeltaCall(Record):
    """What is new of a call; `id`, `type` and the name come first."""

    index: int
    id: str | None = left_out()
    type: Literal["function"] | None = left_out()
    function: DeltaFunction


def offered(tools: Sequence[OfferedTool] | None) -> list[dict[str, Any]]:
    """In the form of `LLM.chat`."""
    return [tool.model_dump(exclude_none=True) for tool in tools or ()]


def records(calls: Sequence[ToolCall]) -> list[CallRecord]:
    """Calls as a client gets them."""
    return [CallRecord(id=call.id, function=CallFunction(name=call.name, arguments=call.arguments)) for call in calls]
