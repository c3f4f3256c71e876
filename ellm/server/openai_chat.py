"""`/v1/chat/completions`: a conversation is answered."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ellm.server import bounds
from ellm.server.answer import Answer
from ellm.server.errors import ApiError
from ellm.server.logprobs import ChatLogprobs, ChatReader
from ellm.server.messages import Message, conversation
from ellm.server.replies import Events, Frame, event
from ellm.server.sampling_fields import MaxTokens, Sampling
from ellm.server.service import Call
from ellm.server.structured import ResponseFormat, wanted
from ellm.server.template_fields import TemplateKwargs, variables
from ellm.server.tools import CallRecord, DeltaCall, DeltaFunction, NamedTool, Tools, offered, records
from ellm.server.usage import Usage, usage_of
from ellm.server.validation import Body, Record, left_out, only
from ellm.serving.output import Output
from ellm.serving.sampling import MOST_LIKELY
from ellm.text.piece import Piece

Hint = Annotated[str, Field(max_length=4096)]
FinishReason = Literal["stop", "length", "tool_calls"]


class StreamOptions(Body):
    """What a stream tells beside the answer."""

    include_usage: bool | None = None
    include_obfuscation: only(None, False) = None  # type: ignore[valid-type]
    continuous_usage_stats: only(None, False) = None  # type: ignore[valid-type]


class Streamed(Body):
    """Fields of a request whose answer may be streamed."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def check_stream(self) -> None:
        """Raises ApiError for options of a stream without one."""
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options needs stream: true", param="stream_options", code="invalid_value")

    @property
    def with_usage(self) -> bool:
        """Whether the stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class Hints(Body):
    """Fields that OpenAI's service wants for itself; here they change nothing."""

    user: Hint | None = None
    safety_identifier: Hint | None = None
    prompt_cache_key: Hint | None = None
    prompt_cache_retention: Hint | None = None
    metadata: dict[str, Hint] | None = None
    service_tier: only(None, "auto", "default") = None  # type: ignore[valid-type]
    store: only(None, False) = None  # type: ignore[valid-type]


class ChatRequest(Sampling, Streamed, Hints):
    """A conversation to go on with."""

    renamed: ClassVar = {"prompt": "messages"}

    model: Annotated[str, Field(max_length=bounds.NAME_CHARACTERS)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=bounds.MESSAGES)]
    max_completion_tokens: MaxTokens | None = None
    max_tokens: MaxTokens | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LIKELY)] | None = None
    tools: Tools | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    modalities: only(None, ["text"]) = None  # type: ignore[valid-type]
    verbosity: only(None, "medium") = None  # type: ignore[valid-type]

    @property
    def most_tokens(self) -> int | None:
        """Of the answer. Raises ApiError if both fields are given and differ."""
        given = {value for value in (self.max_completion_tokens, self.max_tokens) if value is not None}
        if len(given) > 1:
            raise ApiError(
                400,
                f"max_tokens is {self.max_tokens}, but max_completion_tokens is {self.max_completion_tokens}",
                param="max_tokens",
                code="invalid_value",
            )
        return next(iter(given), None)

    def field_of(self, argument: str) -> str | None:
        """Of what an answer must be like, the one of the two that was given."""
        given = argument != "structured_outputs" or self.structured_outputs is not None
        return super().field_of(argument if given else "response_format")

    def others(self) -> dict[str, Any]:
        """Fields of SamplingParams that only conversations have so. Raises ApiError for what goes not together."""
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs", code="invalid_value")
        found: dict[str, Any] = {"logprobs": self.top_logprobs or 0} if self.logprobs else {}
        format = wanted(self.response_format)
        if format is not None and self.structured_outputs is not None:
            message = "structured_outputs and response_format cannot both be given"
            raise ApiError(400, message, param="structured_outputs", code="invalid_value")
        return found | ({"structured_outputs": format} if format is not None else {})


class ChatMessage(Record):
    """An answer, and what the model thought before it."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    reasoning_content: str | None = left_out()
    tool_calls: list[CallRecord] | None = left_out()
    refusal: None = None


class ChatChoice(Record):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason


class ChatCompletion(Record):
    """The reply."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(Record):
    """What is new of a message."""

    role: Literal["assistant"] | None = left_out()
    content: str | None = left_out()
    reasoning_content: str | None = left_out()
    tool_calls: list[DeltaCall] | None = left_out()

    @classmethod
    def of(cls, piece: Piece) -> Delta:
        """A piece of an answer."""
        if piece.kind != "tool":
            return cls(content=piece.text) if piece.kind == "answer" else cls(reasoning_content=piece.text)
        function = DeltaFunction(name=piece.name, arguments=piece.text)
        kind: Literal["function"] | None = "function" if piece.name is not None else None
        return cls(tool_calls=[DeltaCall(index=piece.index or 0, id=piece.id, type=kind, function=function)])


class ChunkChoice(Record):
    """What is new of an answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(Record):
    """One event of a streamed reply; the last one has the usage alone if that was asked for."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = left_out()


async def chat(call: Call, request: ChatRequest) -> ChatCompletion | Events:
    """Answer a conversation."""
    call.service.check_name(request.model)
    request.check_stream()
    params = request.params(call.service.defaults, request.most_tokens, **request.others())
    template = variables(call.service.llm.tokenizer, request.chat_template_kwargs, request.reasoning_effort)
    choice = request.tool_choice
    answers = await call.chat(
        conversation(request.messages),
        params,
        template,
        tools=offered(request.tools),
        tool_choice=choice.model_dump() if isinstance(choice, NamedTool) else choice or "auto",
        most_calls=1 if request.parallel_tool_calls is False else None,
    )
    head: dict[str, Any] = {"id": f"chatcmpl-{call.id}", "created": int(time.time()), "model": request.model}
    readers = [ChatReader(call.service, answer) if request.logprobs else None for answer in answers]
    if request.stream:
        return _Chunks(answers, readers, head, request.with_usage)
    outputs = [await answer.whole() for answer in answers]
    choices = [_choice(index, *one) for index, one in enumerate(zip(answers, outputs, readers, strict=True))]
    return ChatCompletion(**head, choices=choices, usage=usage_of(outputs, len(answers)))


def _choice(index: int, answer: Answer, output: Output, reader: ChatReader | None) -> ChatChoice:
    calls = records(answer.calls)
    content = output.text if output.text or not calls else None
    message = ChatMessage(content=content, reasoning_content=output.reasoning, tool_calls=calls or None)
    logprobs = reader.more() if reader is not None else None
    return ChatChoice(index=index, message=message, logprobs=logprobs, finish_reason=finish_reason(output))


class OpenAIEvents(Events):
    """Events of OpenAI's two kinds of completions."""

    def last(self) -> bytes:
        """The mark of the end."""
        return event(b"[DONE]")

    def failure(self, error: ApiError) -> bytes:
        """The error."""
        return event(error.body("/v1/"))


class _Chunks(OpenAIEvents):
    """The events of a streamed reply."""

    def __init__(
        self,
        answers: Sequence[Answer],
        readers: Sequence[ChatReader | None],
        head: dict[str, Any],
        with_usage: bool,
    ):
        super().__init__(answers)
        self._readers, self._head, self._with_usage = readers, head, with_usage
        indices = range(len(answers))
        self._frames = [self._frame(index, Delta(content=""), "content") for index in indices]
        self._thoughts = [self._frame(index, Delta(reasoning_content=""), "reasoning_content") for index in indices]

    def _frame(self, index: int, delta: Delta, field: str) -> Frame:
        return Frame(ChatChunk(**self._head, choices=[ChunkChoice(index=index, delta=delta)]), field)

    def begin(self) -> bytes:
        role = Delta(role="assistant", content="")
        return b"".join(self._event([ChunkChoice(index=index, delta=role)]) for index in range(len(self.answers)))

    def more(self, index: int, piece: Piece) -> bytes:
        if self._readers[index] is not None or piece.kind == "tool":
            return self._chunk(index, Delta.of(piece))
        frames = self._frames if piece.kind == "answer" else self._thoughts
        return frames[index].event(piece.text)

    def end(self, index: int) -> bytes:
        return self._chunk(index, Delta(), finish_reason(self.answers[index].output))

    def last(self) -> bytes:
        if not self._with_usage:
            return super().last()
        usage = usage_of([answer.output for answer in self.answers], len(self.answers))
        return self._event([], usage) + super().last()

    def _chunk(self, index: int, delta: Delta, end: FinishReason | None = None) -> bytes:
        reader = self._readers[index]
        logprobs = reader.more() if reader is not None else None
        return self._event([ChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=end)])

    def _event(self, choices: list[ChunkChoice], usage: Usage | None = None) -> bytes:
        return event(ChatChunk(**self._head, choices=choices, usage=usage).model_dump_json())


def finish_reason(output: Output) -> FinishReason:
    """Why an answer ended."""
    return (
        "tool_calls" if output.finish_reason == "tool_calls" else "stop" if output.finish_reason == "stop" else "length"
    )
