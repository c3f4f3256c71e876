"""What a client may tell a chat template beside the messages: a few variables by name, never a template."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from ellm.server.validation import Body
from ellm.system.errors import InputError
from ellm.text.tokenizer import Tokenizer

Word = Annotated[str, Field(max_length=256)]


class TemplateKwargs(Body):
    """Those variables of templates that only switch what they are made to switch."""

    enable_thinking: bool | None = None
    thinking: bool | None = None
    thinking_budget: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    reasoning_effort: Word | None = None
    preserve_thinking: bool | None = None
    clear_thinking: bool | None = None
    date_string: Word | None = None
    model_identity: Word | None = None


def variables(tokenizer: Tokenizer, given: TemplateKwargs | None, effort: str | None) -> dict[str, Any] | None:
    """The variables for `LLM.stream_chat`. `effort` goes to a template that reads it, else it switches thinking.

    Raises ApiError if the template has no such switch; "medium" is what it does by itself.
    """
    found = given.model_dump(exclude_none=True) if given is not None else {}
    if effort is None:
        return found or None
    if tokenizer.reads("reasoning_effort"):
        return found | {"reasoning_effort": effort}
    if effort == "medium":
        return found or None
    try:
        return tokenizer.thinking(effort not in ("none", "minimal")) | found
    except InputError as error:
        raise InputError(f"reasoning_effort: {error}") from None


def thinking_variables(tokenizer: Tokenizer, on: bool) -> dict[str, Any]:
    """Those that switch thinking; none of a template without a switch, whose model thinks or not as it is made."""
    try:
        return {**tokenizer.thinking(on)}
    except InputError:
        return {}
