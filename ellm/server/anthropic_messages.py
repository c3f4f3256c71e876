"""`/v1/messages` and `/v1/messages/count_tokens`: conversations in Anthropic's form."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ellm.server import bounds
from ellm.server.answer import Answer
from ellm.server.anthropic_blocks import (
    AnthropicMessage,
    AnthropicTool,
    AnthropicToolChoice,
    CacheControl,
    TextBlock,
    conversation,
    offered,
)
from ellm.server.errors import ApiError
from ellm.server.openai_chat import Hint
from ellm.server.replies import Events, event
from ellm.server.sampling_fields import MaxTokens, StopText, Temperature, TopK, TopP, sampling
from ellm.server.service import Call
from ellm.server.structured import FlatFormat, wanted
from ellm.server.template_fields import thinking_variables
from ellm.server.validation import Body, Record, only
from ellm.serving.output import Output
from ellm.text.piece import Piece

_PATH = "/v1/messages"


class Thinking(Body):
    """Whether to think. How long is the model's choice: a budget is no more than a hint."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    display: only(None, "summarized") = None  # type: ignore[valid-type]


class OutputConfig(Body):
    """How hard to try, where the chat template reads it."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: FlatFormat | None = None


class ThinkingEdit(Body):
    """Which thoughts of earlier turns to keep: all that the chat template does."""

    type: Literal["clear_thinking_20251015"]
    keep: only("all")  # type: ignore[valid-type]


class ContextManagement(Body):
    """What to take out of the conversation first; here nothing is."""

    edits: Annotated[list[ThinkingEdit], Field(max_length=bounds.PARTS)] | None = None


class Metadata(Body):
    """For Anthropic's service; here it changes nothing."""

    user_id: Hint | None = None


class CountRequest(Body):
    """A conversation whose tokens are wanted."""

    renamed: ClassVar = {"prompt": "messages", "structured_outputs": "output_config.format"}

    model: Annotated[str, Field(max_length=bounds.NAME_CHARACTERS)]
    messages: Annotated[list[AnthropicMessage], Field(min_length=1, max_length=bounds.MESSAGES)]
    system: str | Annotated[list[TextBlock], Field(max_length=bounds.PARTS)] | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None
    context_management: ContextManagement | None = None
    tools: Annotated[list[AnthropicTool], Field(max_length=bounds.TOOLS)] | None = None
    tool_choice: AnthropicToolChoice | None = None


class MessagesRequest(CountRequest):
    """A conversation to go on with."""

    max_tokens: MaxTokens
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    stop_sequences: Annotated[list[StopText], Field(max_length=bounds.STOPS)] | None = None
    stream: bool | None = None
    metadata: Metadata | None = None
    service_tier: only(None, "auto", "standard_only") = None  # type: ignore[valid-type]


class Count(Record):
    """Its tokens."""

    input_tokens: int


class MessageUsage(Record):
    """Tokens of a request; those of the prompt that were cached are not among `input_tokens`."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int = 0


class AnswerText(Record):
    """What the model says."""

    type: Literal["text"] = "text"
    text: str


class AnswerThinking(Record):
    """What it thought before. Nothing needs to be signed: the client may send it back or not."""

    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str = ""


class AnswerToolUse(Record):
    """A call that it wants."""

    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: dict[str, Any]


AnswerBlock = AnswerText | AnswerThinking | AnswerToolUse
StopReason = Literal["end_turn", "stop_sequence", "max_tokens", "tool_use"]


class MessageReply(Record):
    """The reply."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[AnswerBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


async def messages(call: Call, request: MessagesRequest) -> MessageReply | Events:
    """Answer a conversation."""
    call.service.check_name(request.model)
    params = sampling(
        call.service.defaults,
        request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        stop=request.stop_sequences,
        structured_outputs=wanted(request.output_config.format) if request.output_config is not None else None,
    )
    choice = request.tool_choice or AnthropicToolChoice(type="auto")
    (answer,) = await call.chat(
        conversation(request.system, request.messages),
        params,
        _variables(call, request),
        tools=offered(request.tools),
        tool_choice=choice.openai(),
        most_calls=1 if choice.disable_parallel_tool_use else None,
    )
    head: dict[str, Any] = {"id": f"msg_{call.id}", "model": request.model}
    if request.stream:
        return _Events(answer, head)
    output = await answer.whole()
    content: list[AnswerBlock] = []
    if output.reasoning:
        content.append(AnswerThinking(thinking=output.reasoning))
    if output.text:
        content.append(AnswerText(text=output.text))
    content += [AnswerToolUse(id=one.id, name=one.name, input=json.loads(one.arguments)) for one in answer.calls]
    reason, sequence = _stopped_by(output)
    return MessageReply(**head, content=content, stop_reason=reason, stop_sequence=sequence, usage=_usage(output))


async def count_tokens(call: Call, request: CountRequest) -> Count:
    """How many tokens a conversation is."""
    call.service.check_name(request.model)
    tokenizer, kwargs = call.service.llm.tokenizer, _variables(call, request)
    said = conversation(request.system, request.messages)
    none = request.tool_choice is not None and request.tool_choice.type == "none"
    tools = None if none else offered(request.tools) or None
    ids = await call.service.off_loop(lambda: tokenizer.chat(said, tools=tools, chat_template_kwargs=kwargs))
    return Count(input_tokens=len(ids))


class _Events(Events):
    """The events of a streamed message."""

    idle = event(b'{"type":"ping"}', "ping")

    def __init__(self, answer: Answer, head: dict[str, Any]):
        super().__init__([answer])
        self._head, self._index = head, -1
        self._block: tuple[str, int | None] | None = None  # that is open: what kind its pieces are, and of which call

    def begin(self) -> bytes:
        usage = _usage(self.answers[0].output)
        start = MessageReply(**self._head, content=[], stop_reason=None, stop_sequence=None, usage=usage)
        return _named("message_start", message=start.model_dump())

    def more(self, index: int, piece: Piece) -> bytes:
        before = b""
        if (piece.kind, piece.index) != self._block:
            before = self._close()
            self._index, self._block = self._index + 1, (piece.kind, piece.index)
            before += _named("content_block_start", index=self._index, content_block=_empty(piece))
        return before + _named("content_block_delta", index=self._index, delta=_delta(piece))

    def end(self, index: int) -> bytes:
        output = self.answers[index].output
        reason, sequence = _stopped_by(output)
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        last = _named("message_delta", delta=delta, usage=_usage(output).model_dump())
        return self._close() + last + _named("message_stop")

    def failure(self, error: ApiError) -> bytes:
        return event(error.body(_PATH), "error")

    def _close(self) -> bytes:
        return b"" if self._block is None else _named("content_block_stop", index=self._index)


def _empty(piece: Piece) -> dict[str, Any]:
    """The block that a piece begins."""
    if piece.kind == "tool":
        return {"type": "tool_use", "id": piece.id, "name": piece.name, "input": {}}
    return (
        {"type": "text", "text": ""}
        if piece.kind == "answer"
        else {"type": "thinking", "thinking": "", "signature": ""}
    )


def _delta(piece: Piece) -> dict[str, str]:
    """What a piece adds to its block."""
    if piece.kind == "tool":
        return {"type": "input_json_delta", "partial_json": piece.text}
    name = "text" if piece.kind == "answer" else "thinking"
    return {"type": f"{name}_delta", name: piece.text}


def _named(name: str, **fields: Any) -> bytes:
    return event(json.dumps({"type": name, **fields}, ensure_ascii=False), name)


def _usage(output: Output) -> MessageUsage:
    cached = output.metrics.cached_tokens
    return MessageUsage(
        input_tokens=len(output.prompt_token_ids) - cached,
        output_tokens=len(output.token_ids),
        cache_read_input_tokens=cached,
    )


def _stopped_by(output: Output) -> tuple[StopReason, str | None]:
    """Why an answer ended, and the stop sequence if that is why."""
    if output.finish_reason == "tool_calls":
        return "tool_use", None
    if output.finish_reason != "stop":
        return "max_tokens", None
    return ("stop_sequence", output.stop_reason) if isinstance(output.stop_reason, str) else ("end_turn", None)


def _variables(call: Call, request: CountRequest) -> dict[str, Any] | None:
    tokenizer = call.service.llm.tokenizer
    found: dict[str, Any] = {}
    if request.thinking is not None:
        found |= thinking_variables(tokenizer, request.thinking.type != "disabled")
    if request.output_config is not None and request.output_config.effort and tokenizer.reads("reasoning_effort"):
        found["reasoning_effort"] = request.output_config.effort
    return found or None
