"""`/v1/completions`: prompts are continued as they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from ellm.server import bounds
from ellm.server.answer import Answer
from ellm.server.errors import ApiError
from ellm.server.openai_chat import DONE, FinishReason, Hint, StreamOptions, finish_reason, stream_error
from ellm.server.replies import Events, event, server_sent
from ellm.server.sampling_fields import MaxTokens, Sampling, TokenId
from ellm.server.service import Call
from ellm.server.usage import Usage, usage_of
from ellm.server.validation import Record, left_out, only

DEFAULT_TOKENS = 16  # OpenAI's

Tokens = Annotated[list[TokenId], Field(min_length=1)]
Prompts = str | Tokens | Annotated[list[str | Tokens], Field(min_length=1, max_length=bounds.PROMPTS)]


class CompletionRequest(Sampling):
    """Texts, whose control tokens are such, or token ids to go on with."""

    model: Annotated[str, Field(max_length=bounds.NAME_CHARACTERS)]
    prompt: Prompts
    max_tokens: MaxTokens | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Hint | None = None
    echo: bool | None = None
    best_of: only(None, 1) = None  # type: ignore[valid-type]
    logprobs: only(None) = None  # type: ignore[valid-type]
    suffix: only(None, "") = None  # type: ignore[valid-type]

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or many as a list of them."""
        prompt: Any = self.prompt
        return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt


class Choice(Record):
    """The continuation of one prompt, or what is new of it."""

    index: int
    text: str
    logprobs: None = None
    finish_reason: FinishReason | None


class Completion(Record):
    """The reply, or one event of it."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = left_out()


async def complete(call: Call, request: CompletionRequest) -> Completion | Events:
    """Continue prompts."""
    call.service.check_name(request.model)
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options needs stream: true", param="stream_options", code="invalid_value")
    params = request.params(call.service.defaults, request.max_tokens or DEFAULT_TOKENS)
    answers = [await call.continuation(prompt, params) for prompt in request.prompts]
    echoes = [await _echo(call, request, answer) for answer in answers]
    head: dict[str, Any] = {"id": f"cmpl-{call.id}", "created": int(time.time()), "model": request.model}
    if request.stream:
        with_usage = request.stream_options is not None and bool(request.stream_options.include_usage)
        return server_sent(_chunks(answers, echoes, head, with_usage), stream_error)
    outputs = [await answer.whole() for answer in answers]
    choices = [
        Choice(index=index, text=echo + output.text, finish_reason=finish_reason(output))
        for index, (echo, output) in enumerate(zip(echoes, outputs, strict=True))
    ]
    return Completion(**head, choices=choices, usage=usage_of(outputs))


async def _echo(call: Call, request: CompletionRequest, answer: Answer) -> str:
    if not request.echo:
        return ""
    tokens = answer.output.prompt_token_ids
    return await call.service.off_loop(call.service.llm.tokenizer.decode, tokens)


async def _chunks(
    answers: Sequence[Answer], echoes: Sequence[str], head: dict[str, Any], with_usage: bool
) -> AsyncIterator[bytes]:
    def chunk(index: int, text: str, end: FinishReason | None = None) -> bytes:
        choice = Choice(index=index, text=text, finish_reason=end)
        return event(Completion(**head, choices=[choice]).model_dump_json())

    for index, echo in enumerate(echoes):
        if echo:
            yield chunk(index, echo)
    async for index, pieces in together(answers):
        if pieces is None:
            yield chunk(index, "", finish_reason(answers[index].output))
        for piece in pieces or ():
            yield chunk(index, piece.text)
    if with_usage:
        usage = usage_of([answer.output for answer in answers])
        yield event(Completion(**head, choices=[], usage=usage).model_dump_json())
    yield DONE


async def together(answers: Sequence[Answer]) -> AsyncIterator[tuple[int, Any]]:
    """What comes of several answers: (which of them, its pieces), and (which, None) when it has ended."""
    if len(answers) == 1:
        while (pieces := await answers[0].more()) is not None:
            yield 0, pieces
        yield 0, None
        return
    waiting = {asyncio.ensure_future(answer.more()): index for index, answer in enumerate(answers)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                index, pieces = waiting.pop(task), task.result()
                yield index, pieces
                if pieces is not None:
                    waiting[asyncio.ensure_future(answers[index].more())] = index
    finally:
        for task in waiting:
            task.cancel()
