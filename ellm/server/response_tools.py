"""Tools that a request of OpenAI's Responses offers: functions, alone or in namespaces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field

from ellm.server import bounds
from ellm.server.errors import ApiError
from ellm.server.messages import Name
from ellm.server.tools import OfferedFunction
from ellm.server.validation import Body


class ResponseFunction(OfferedFunction):
    """A function that the model may call. The client runs it."""

    type: Literal["function"]


class Namespace(Body):
    """Functions whose calls name it too."""

    type: Literal["namespace"]
    name: Annotated[Name, Field(min_length=1)]
    description: str | None = None
    tools: Annotated[list[ResponseFunction], Field(max_length=bounds.TOOLS)]


class HostedTool(Body):
    """A tool that OpenAI's service would run itself. There is none here, and the model does not hear of it."""

    model_config = ConfigDict(extra="allow")
    type: Literal["web_search", "image_generation"]


ResponseTool = Annotated[ResponseFunction | Namespace | HostedTool, Discriminator("type")]


class ResponseToolChoice(Body):
    """The function that must be called."""

    type: Literal["function"]
    name: Name
    namespace: Name | None = None

    def openai(self) -> dict[str, Any]:
        """In the form of `LLM.chat`."""
        return {"type": "function", "function": {"name": full_name(self.namespace, self.name)}}


class OfferedFunctions:
    """The functions that the model hears of, by their full names.

    Raises ApiError if two of different namespaces have the same, or if they are more than a request may have.
    """

    def __init__(self, tools: Sequence[Any] | None):
        self._split: dict[str, tuple[str | None, str]] = {}
        self.openai: list[dict[str, Any]] = []
        """In the form of `LLM.chat`."""
        for namespace, one in _functions(tools or ()):
            name = full_name(namespace, one.name)
            if self._split.setdefault(name, (namespace, one.name)) != (namespace, one.name):
                raise ApiError(400, f"tools: two are called {name!r}", param="tools", code="invalid_value")
            function = one.model_dump(exclude_none=True, exclude={"type"}) | {"name": name}
            self.openai.append({"type": "function", "function": function})
        if len(self.openai) > bounds.TOOLS:
            message = f"tools has {len(self.openai)} functions in its namespaces, {bounds.TOOLS} at most"
            raise ApiError(400, message, param="tools", code="invalid_value")

    def split(self, name: str) -> tuple[str | None, str]:
        """The namespace of a full name, and its name there."""
        return self._split.get(name, (None, name))


def full_name(namespace: str | None, name: str) -> str:
    """What the model calls a function."""
    return name if namespace is None else f"{namespace}__{name}"


def _functions(tools: Sequence[Any]) -> Iterator[tuple[str | None, ResponseFunction]]:
    for tool in tools:
        if isinstance(tool, ResponseFunction):
            yield None, tool
        elif isinstance(tool, Namespace):
            for one in tool.tools:
                yield tool.name, one
