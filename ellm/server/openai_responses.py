"""`/v1/responses`: conversations in OpenAI's newer form. Nothing is kept from one request to the next."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ellm.server import bounds
from ellm.server.answer import Answer
from ellm.server.errors import ApiError
from ellm.server.openai_chat import Hint, Hints
from ellm.server.replies import Events, event
from ellm.server.response_items import (
    InputItem,
    Item,
    OutputCall,
    OutputMessage,
    OutputReasoning,
    OutputText,
    OutputThought,
    Status,
    conversation,
)
from ellm.server.response_tools import HostedTool, OfferedFunctions, ResponseTool, ResponseToolChoice
from ellm.server.sampling_fields import MaxTokens, Temperature, TopP, sampling
from ellm.server.service import Call
from ellm.server.structured import FlatFormat, wanted
from ellm.server.template_fields import variables
from ellm.server.validation import Body, Record, only
from ellm.serving.output import Output
from ellm.text.piece import Piece

_NAMES = {"answer": "output_text", "reasoning": "reasoning_text", "tool": "function_call_arguments"}  # of events
_MORE: dict[str, dict[str, Any]] = {"answer": {"logprobs": []}}  # fields of events
_IDS = {"answer": "msg", "reasoning": "rs", "tool": "fc"}  # of items, before their numbers


class Reasoning(Body):
    """How hard to think, where the chat template reads it or switches thinking."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: only(None, "auto", "concise", "detailed") = None  # type: ignore[valid-type]
    generate_summary: only(None, "auto", "concise", "detailed") = None  # type: ignore[valid-type]


class TextOptions(Body):
    """What the text must be like."""

    format: FlatFormat | None = None
    verbosity: only(None, "medium") = None  # type: ignore[valid-type]


class ResponseStreamOptions(Body):
    """What a stream has beside the answer."""

    include_obfuscation: only(None, False) = None  # type: ignore[valid-type]


class ResponsesRequest(Hints):
    """A conversation to go on with."""

    renamed: ClassVar = {
        "prompt": "input",
        "structured_outputs": "text.format",
        "reasoning_effort": "reasoning.effort",
    }

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
    tools: Annotated[list[ResponseTool], Field(max_length=bounds.TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponseToolChoice | None = None
    top_logprobs: only(None, 0) = None  # type: ignore[valid-type]
    truncation: only(None, "disabled") = None  # type: ignore[valid-type]
    background: only(None, False) = None  # type: ignore[valid-type]
    previous_response_id: only(None) = None  # type: ignore[valid-type]
    conversation: only(None) = None  # type: ignore[valid-type]
    prompt: only(None) = None  # type: ignore[valid-type]
    max_tool_calls: only(None) = None  # type: ignore[valid-type]
    client_metadata: dict[str, Hint] | None = None


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
    output: list[Item]
    parallel_tool_calls: bool = True
    previous_response_id: None = None
    store: Literal[False] = False
    temperature: float | None
    top_p: float | None
    tool_choice: Literal["none", "auto", "required"] | ResponseToolChoice
    tools: list[Any] = Field(default_factory=list)
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    metadata: dict[str, str]


async def respond(call: Call, request: ResponsesRequest) -> Response | Events:
    """Answer a conversation."""
    call.service.check_name(request.model)
    params = sampling(
        call.service.defaults,
        request.max_output_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        structured_outputs=wanted(request.text.format) if request.text is not None else None,
    )
    effort = request.reasoning.effort if request.reasoning is not None else None
    template = variables(call.service.llm.tokenizer, None, effort)
    choice = request.tool_choice
    offered = OfferedFunctions(request.tools)
    (answer,) = await call.chat(
        conversation(request.instructions, request.input),
        params,
        template,
        tools=offered.openai,
        tool_choice=choice.openai() if isinstance(choice, ResponseToolChoice) else choice or "auto",
        most_calls=1 if request.parallel_tool_calls is False else None,
    )
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
        parallel_tool_calls=request.parallel_tool_calls is not False,
        tool_choice=choice or "auto",
        tools=[tool.model_dump() for tool in request.tools or () if not isinstance(tool, HostedTool)],
    )
    if request.stream:
        return _Events(answer, draft, call.id, offered)
    output = await answer.whole()
    items: list[Item] = []
    if output.reasoning:
        items.append(OutputReasoning(id=f"rs_{call.id}_0", content=[OutputThought(text=output.reasoning)]))
    if output.text:
        message = OutputMessage(
            id=f"msg_{call.id}_{len(items)}", status=_status(output), content=[OutputText(text=output.text)]
        )
        items.append(message)
    for one in answer.calls:
        items.append(_call(f"fc_{call.id}_{len(items)}", "completed", one.id, offered.split(one.name), one.arguments))
    return _finished(draft, output, items)


def _call(item_id: str, status: Status, call_id: str, name: tuple[str | None, str], arguments: str) -> OutputCall:
    namespace, name_there = name
    return OutputCall(
        id=item_id, status=status, call_id=call_id, namespace=namespace, name=name_there, arguments=arguments
    )


def _status(output: Output) -> Literal["completed", "incomplete"]:
    return "incomplete" if output.finish_reason == "length" else "completed"


def _finished(draft: Response, output: Output, items: list[Item]) -> Response:
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


class _Events(Events):
    """The events of one streamed response."""

    def __init__(self, answer: Answer, draft: Response, call_id: str, offered: OfferedFunctions):
        super().__init__([answer])
        self._draft, self._call_id, self._offered = draft, call_id, offered
        self._number = 0
        self._items: list[Item] = []
        self._first: Piece | None = None  # of the item that is open
        self._text: list[str] = []

    def begin(self) -> bytes:
        draft = self._draft.model_dump()
        return self._event("response.created", response=draft) + self._event("response.in_progress", response=draft)

    def more(self, index: int, piece: Piece) -> bytes:
        before = b""
        if self._first is None or (piece.kind, piece.index) != (self._first.kind, self._first.index):
            before = b"".join([*self._close("completed"), *self._open(piece)])
        self._text.append(piece.text)
        return before + self._delta(piece)

    def end(self, index: int) -> bytes:
        output = self.answers[index].output
        closed = b"".join(self._close(_status(output)))
        whole = _finished(self._draft, output, self._items)
        return closed + self._event(f"response.{whole.status}", response=whole.model_dump())

    def failure(self, error: ApiError) -> bytes:
        told = ResponseError(code=error.code or "server_error", message=str(error))
        failed = self._draft.model_copy(update={"status": "failed", "error": told, "output": self._items})
        return self._event("response.failed", response=failed.model_dump())

    def _event(self, name: str, **fields: Any) -> bytes:
        data = {"type": name, "sequence_number": self._number, **fields}
        self._number += 1
        return event(json.dumps(data, ensure_ascii=False), name)

    def _open(self, piece: Piece) -> Iterator[bytes]:
        self._first, self._text = piece, []
        item = self._item(piece, "in_progress", "").model_dump()
        yield self._event("response.output_item.added", output_index=len(self._items), item=item)
        if piece.kind != "tool":
            part = _part(piece, "").model_dump()
            yield self._event("response.content_part.added", **self._where(piece), part=part)

    def _delta(self, piece: Piece) -> bytes:
        return self._event(
            f"response.{_NAMES[piece.kind]}.delta", **self._where(piece), delta=piece.text, **_MORE.get(piece.kind, {})
        )

    def _close(self, status: Status) -> Iterator[bytes]:
        piece, self._first = self._first, None
        if piece is None:
            return
        text, name = "".join(self._text), f"response.{_NAMES[piece.kind]}.done"
        if piece.kind == "tool":
            yield self._event(name, **self._where(piece), arguments=text)
        else:
            yield self._event(name, **self._where(piece), text=text, **_MORE.get(piece.kind, {}))
            part = _part(piece, text).model_dump()
            yield self._event("response.content_part.done", **self._where(piece), part=part)
        item = self._item(piece, status, text)
        yield self._event("response.output_item.done", output_index=len(self._items), item=item.model_dump())
        self._items.append(item)

    def _where(self, piece: Piece) -> dict[str, Any]:
        found = {"item_id": self._id(piece), "output_index": len(self._items)}
        return found if piece.kind == "tool" else found | {"content_index": 0}

    def _id(self, piece: Piece) -> str:
        return f"{_IDS[piece.kind]}_{self._call_id}_{len(self._items)}"

    def _item(self, piece: Piece, status: Status, text: str) -> Item:
        if piece.kind == "tool":
            return _call(self._id(piece), status, piece.id or "", self._offered.split(piece.name or ""), text)
        content: Any = [_part(piece, text)] if text else []
        made = OutputMessage if piece.kind == "answer" else OutputReasoning
        return made(id=self._id(piece), status=status, content=content)


def _part(piece: Piece, text: str) -> OutputText | OutputThought:
    return OutputText(text=text) if piece.kind == "answer" else OutputThought(text=text)
