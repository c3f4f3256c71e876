"""`/v1/responses`: conversations in OpenAI's newer form. Nothing is kept from one request to the next."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from ellm.server import bounds
from ellm.server.answer import Answer
from ellm.server.errors import ApiError
from ellm.server.openai_chat import Hints
from ellm.server.replies import Events, event, server_sent
from ellm.server.response_items import (
    InputItem,
    OutputMessage,
    OutputReasoning,
    OutputText,
    OutputThought,
    conversation,
)
from ellm.server.sampling_fields import MaxTokens, Temperature, TopP, sampling
from ellm.server.service import Call
from ellm.server.template_fields import variables
from ellm.server.validation import Body, Record, only
from ellm.serving.output import Output


class Reasoning(Body):
    """How hard to think, where the chat template reads it or switches thinking."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: only(None, "auto", "concise", "detailed") = None  # type: ignore[valid-type]
    generate_summary: only(None, "auto", "concise", "detailed") = None  # type: ignore[valid-type]


class TextOptions(Body):
    """What the text must be like."""

    format: only(None, {"type": "text"}) = None  # type: ignore[valid-type]
    verbosity: only(None, "medium") = None  # type: ignore[valid-type]


class ResponseStreamOptions(Body):
    """What a stream has beside the answer."""

    include_obfuscation: only(None, False) = None  # type: ignore[valid-type]


class ResponsesRequest(Hints):
    """A conversation to go on with."""

    model: Annotated[str, Field(max_length=bounds.NAME_CHARACTERS)]
    input: str | Annotated[list[InputItem], Field(min_length=1, max_length=bounds.MESSAGES)]
    instructions: str | None = None
    max_output_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    include: only(None, [], ["reasoning.encrypted_content"]) = None  # type: ignore[valid-type]
    parallel_tool_calls: bool | None = None
    tools: only(None, []) = None  # type: ignore[valid-type]
    tool_choice: only(None, "none", "auto") = None  # type: ignore[valid-type]
    top_logprobs: only(None, 0) = None  # type: ignore[valid-type]
    truncation: only(None, "disabled") = None  # type: ignore[valid-type]
    background: only(None, False) = None  # type: ignore[valid-type]
    previous_response_id: only(None) = None  # type: ignore[valid-type]
    conversation: only(None) = None  # type: ignore[valid-type]
    prompt: only(None) = None  # type: ignore[valid-type]
    max_tool_calls: only(None) = None  # type: ignore[valid-type]


class InputDetails(Record):
    """Of the prompt's tokens."""

    cached_tokens: int


class OutputDetails(Record):
    """Of the tokens generated."""

    reasoning_tokens: int


class ResponseUsage(Record):
    """Tokens of a request."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Incomplete(Record):
    """Why an answer was cut off."""

    reason: Literal["max_output_tokens"]


class ResponseError(Record):
    """What ended a response."""

    code: str
    message: str


class Response(Record):
    """The reply."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: ResponseError | None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[OutputReasoning | OutputMessage]
    parallel_tool_calls: bool = True
    previous_response_id: None = None
    store: Literal[False] = False
    temperature: float | None
    top_p: float | None
    tool_choice: Literal["none", "auto"] = "auto"
    tools: list[Any] = Field(default_factory=list)
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    metadata: dict[str, str]


async def respond(call: Call, request: ResponsesRequest) -> Response | Events:
    """Answer a conversation."""
    call.service.check_name(request.model)
    params = sampling(
        call.service.defaults, request.max_output_tokens, temperature=request.temperature, top_p=request.top_p
    )
    effort = request.reasoning.effort if request.reasoning is not None else None
    template = variables(call.service.llm.tokenizer, None, effort)
    answer = await call.chat(conversation(request.instructions, request.input), params, template)
    draft = Response(
        id=f"resp_{call.id}",
        created_at=int(time.time()),
        status="in_progress",
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        model=request.model,
        output=[],
        temperature=params.temperature,
        top_p=params.top_p,
        metadata=request.metadata or {},
    )
    if request.stream:
        stream = _Events(draft, call.id)
        return server_sent(stream.run(answer), stream.failure)
    output = await answer.whole()
    items: list[OutputReasoning | OutputMessage] = []
    if output.reasoning:
        items.append(OutputReasoning(id=f"rs_{call.id}_0", content=[OutputThought(text=output.reasoning)]))
    if output.text:
        message = OutputMessage(
            id=f"msg_{call.id}_{len(items)}", status=_status(output), content=[OutputText(text=output.text)]
        )
        items.append(message)
    return _finished(draft, output, items)


def _status(output: Output) -> Literal["completed", "incomplete"]:
    return "completed" if output.finish_reason == "stop" else "incomplete"


def _finished(draft: Response, output: Output, items: list[OutputReasoning | OutputMessage]) -> Response:
    status = _status(output)
    prompt, generated = len(output.prompt_token_ids), len(output.token_ids)
    usage = ResponseUsage(
        input_tokens=prompt,
        input_tokens_details=InputDetails(cached_tokens=output.metrics.cached_tokens),
        output_tokens=generated,
        output_tokens_details=OutputDetails(reasoning_tokens=output.metrics.reasoning_tokens),
        total_tokens=prompt + generated,
    )
    cut = Incomplete(reason="max_output_tokens") if status == "incomplete" else None
    return draft.model_copy(update={"status": status, "output": items, "usage": usage, "incomplete_details": cut})


class _Events:
    """The events of one streamed response."""

    def __init__(self, draft: Response, call_id: str):
        self._draft, self._call_id = draft, call_id
        self._number = 0
        self._items: list[OutputReasoning | OutputMessage] = []
        self._kind = ""  # of the pieces of the item that is open
        self._text: list[str] = []

    async def run(self, answer: Answer) -> AsyncIterator[bytes]:
        """All of them, in order."""
        yield self._event("response.created", response=self._draft.model_dump())
        yield self._event("response.in_progress", response=self._draft.model_dump())
        while (pieces := await answer.more()) is not None:
            for text, kind in pieces:
                if kind != self._kind:
                    for one in self._close("completed"):
                        yield one
                    for one in self._open(kind):
                        yield one
                self._text.append(text)
                yield self._delta(text)
        output = answer.output
        for one in self._close(_status(output)):
            yield one
        whole = _finished(self._draft, output, self._items)
        yield self._event(f"response.{whole.status}", response=whole.model_dump())

    def failure(self, error: ApiError) -> bytes:
        """What ends a stream in an error."""
        told = ResponseError(code=error.code or "server_error", message=str(error))
        failed = self._draft.model_copy(update={"status": "failed", "error": told, "output": self._items})
        return self._event("response.failed", response=failed.model_dump())

    def _event(self, name: str, **fields: Any) -> bytes:
        data = {"type": name, "sequence_number": self._number, **fields}
        self._number += 1
        return event(json.dumps(data, ensure_ascii=False), name)

    @property
    def _where(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": len(self._items), "content_index": 0}

    @property
    def _item_id(self) -> str:
        return f"{'msg' if self._kind == 'answer' else 'rs'}_{self._call_id}_{len(self._items)}"

    def _item(self, status: Any, *parts: Any) -> OutputReasoning | OutputMessage:
        if self._kind == "answer":
            return OutputMessage(id=self._item_id, status=status, content=list(parts))
        return OutputReasoning(id=self._item_id, status=status, content=list(parts))

    def _part(self, text: str) -> OutputText | OutputThought:
        return OutputText(text=text) if self._kind == "answer" else OutputThought(text=text)

    def _open(self, kind: str) -> Iterator[bytes]:
        self._kind, self._text = kind, []
        item = self._item("in_progress").model_dump()
        yield self._event("response.output_item.added", output_index=len(self._items), item=item)
        yield self._event("response.content_part.added", **self._where, part=self._part("").model_dump())

    def _delta(self, text: str) -> bytes:
        if self._kind == "answer":
            return self._event("response.output_text.delta", **self._where, delta=text, logprobs=[])
        return self._event("response.reasoning_text.delta", **self._where, delta=text)

    def _close(self, status: str) -> Iterator[bytes]:
        if not self._kind:
            return
        text = "".join(self._text)
        if self._kind == "answer":
            yield self._event("response.output_text.done", **self._where, text=text, logprobs=[])
        else:
            yield self._event("response.reasoning_text.done", **self._where, text=text)
        part = self._part(text)
        yield self._event("response.content_part.done", **self._where, part=part.model_dump())
        item = self._item(status, part)
        yield self._event("response.output_item.done", output_index=len(self._items), item=item.model_dump())
        self._items.append(item)
        self._kind = ""
