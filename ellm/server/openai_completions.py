"""`/v1/completions`: prompts are continued as they are."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from ellm.server import bounds
from ellm.server.answer import Answer, together
from ellm.server.errors import ApiError
from ellm.server.logprobs import TextLogprobs, of_text
from ellm.server.openai_chat import DONE, FinishReason, Hint, Streamed, finish_reason, stream_error
from ellm.server.replies import Events, event, server_sent
from ellm.server.sampling_fields import Sampling, TokenId
from ellm.server.service import Call
from ellm.server.usage import Usage, usage_of
from ellm.server.validation import Record, left_out, only
from ellm.serving.output import Drawn
from ellm.serving.sampling import MOST_LIKELY

DEFAULT_TOKENS = 16  # OpenAI's

Tokens = Annotated[list[TokenId], Field(min_length=1)]
Prompts = str | Tokens | Annotated[list[str | Tokens], Field(min_length=1, max_length=bounds.PROMPTS)]


class CompletionRequest(Sampling, Streamed):
    """Texts, whose control tokens are such, or token ids to go on with."""

    model: Annotated[str, Field(max_length=bounds.NAME_CHARACTERS)]
    prompt: Prompts
    max_tokens: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    user: Hint | None = None
    echo: bool | None = None
    best_of: only(None, 1) = None  # type: ignore[valid-type]
    logprobs: Annotated[int, Field(ge=0, le=MOST_LIKELY)] | None = None
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
    logprobs: TextLogprobs | None = None
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
    request.check_stream()
    if request.max_tokens == 0 and not request.echo:
        raise ApiError(400, "max_tokens must be at least 1, not 0, unless echo", param="max_tokens")
    listed = {} if request.logprobs is None else {"logprobs": request.logprobs}
    if request.echo and request.logprobs is not None:
        listed["prompt_logprobs"] = request.logprobs
    most = DEFAULT_TOKENS if request.max_tokens is None else max(1, request.max_tokens)
    params = request.params(call.service.defaults, most, **listed)
    answers = [answer for prompt in request.prompts for answer in await call.continuation(prompt, params)]
    choices = [_Choice(call, request, answer, index) for index, answer in enumerate(answers)]
    head: dict[str, Any] = {"id": f"cmpl-{call.id}", "created": int(time.time()), "model": request.model}
    if request.stream:
        return server_sent(_chunks(choices, head, request.with_usage, params.n), stream_error)
    for choice in choices:
        await choice.answer.whole()
    made = [await choice.more(choice.text, choice.end) for choice in choices]
    return Completion(**head, choices=made, usage=_usage(choices, params.n))


class _Choice:
    """A continuation, of which the client gets what is new each time."""

    def __init__(self, call: Call, request: CompletionRequest, answer: Answer, index: int):
        self._service, self._request, self.answer = call.service, request, answer
        self.record = Choice(index=index, text="", finish_reason=None)
        self._read = self._offset = 0
        self._echo = bool(request.echo)

    @property
    def text(self) -> str:
        """All that was generated."""
        return "" if self._request.max_tokens == 0 else self.answer.output.text

    @property
    def end(self) -> FinishReason:
        """Why it ended."""
        return "length" if self._request.max_tokens == 0 else finish_reason(self.answer.output)

    async def more(self, text: str, end: FinishReason | None = None) -> Choice:
        """The `record` of its next part, the prompt before the first one with `echo`."""
        prompt, self._echo = self.answer.output if self._echo else None, False
        nothing, logprobs = self._request.max_tokens == 0, None
        if self._request.logprobs is not None:
            drawn = Drawn([], [], None) if nothing else self.answer.drawn(self._read)
            logprobs = of_text(self._service, drawn, prompt, self._offset)
            self._read += len(drawn.token_ids)
            self._offset += sum(map(len, logprobs.tokens))
        text = "" if nothing else text
        if prompt is not None:
            tokenizer = self._service.llm.tokenizer
            text = await self._service.off_loop(tokenizer.decode, prompt.prompt_token_ids) + text
        self.record.text, self.record.logprobs, self.record.finish_reason = text, logprobs, end
        return self.record


def _usage(choices: Sequence[_Choice], each: int) -> Usage:
    outputs = [choice.answer.output for choice in choices]
    if choices[0]._request.max_tokens == 0:
        outputs = [replace(output, token_ids=[]) for output in outputs]
    return usage_of(outputs, each)


async def _chunks(
    choices: Sequence[_Choice], head: dict[str, Any], with_usage: bool, each: int
) -> AsyncIterator[bytes]:
    chunks = [Completion(**head, choices=[choice.record]) for choice in choices]  # made once: there are many parts
    async for index, pieces in together([choice.answer for choice in choices]):
        choice = choices[index]
        for text in [""] if pieces is None else [piece.text for piece in pieces]:
            await choice.more(text, choice.end if pieces is None else None)
            yield event(chunks[index].model_dump_json())
    if with_usage:
        yield event(Completion(**head, choices=[], usage=_usage(choices, each)).model_dump_json())
    yield DONE
