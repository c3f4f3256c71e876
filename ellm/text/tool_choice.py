"""What a caller says of tools: which there are, and which of them the model may or must call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ellm.system.errors import InputError, one_line
from ellm.text.argument_types import Tools
from ellm.text.families import Chat, named

MOST_TOOLS = 1024


def choose(tools: Sequence[Any] | None, tool_choice: str | Mapping[str, Any], tool_parser: str | None) -> Chat:
    """How an answer is read. Raises InputError, naming the argument, for tools or a choice that make no sense."""
    if tool_parser is not None:
        named(tool_parser)
    offered = list(_checked(tools))
    if tool_choice == "none":
        return Chat()
    if tool_choice == "auto":
        return Chat(offered, tool_parser)
    name = _name(tool_choice)
    if not offered:
        raise InputError(f"tool_choice is {one_line(repr(tool_choice))}, but no tools are given")
    if name is not None and name not in (names := Tools(offered).names):
        raise InputError(f"tool_choice: {name!r} is none of the tools, which are {', '.join(map(repr, names))}")
    return Chat(offered, tool_parser, must_call=True, name=name)


def _name(tool_choice: Any) -> str | None:
    """The tool that a choice names; None if it is any."""
    if tool_choice == "required":
        return None
    function = tool_choice.get("function") if isinstance(tool_choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        wanted = '"auto", "none", "required" or {"type": "function", "function": {"name": ...}}'
        raise InputError(f"tool_choice must be {wanted}, not {one_line(repr(tool_choice))}")
    return name


def _checked(tools: Sequence[Any] | None) -> Sequence[Any]:
    if tools is None:
        return ()
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence):
        raise InputError(f"tools must be a list of functions, not {one_line(repr(tools))}")
    if len(tools) > MOST_TOOLS:
        raise InputError(f"tools has {len(tools)} functions, at most {MOST_TOOLS} are allowed")
    for tool in tools:
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
            raise InputError(f"a tool must be a function with a name, not {one_line(repr(tool))}")
        if not isinstance(function.get("parameters") or {}, Mapping):
            raise InputError(f"parameters of tool {function['name']!r} must be a JSON schema")
    return tools
