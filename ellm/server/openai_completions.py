"""`/v1/completions`: prompts are continued as they are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from ellm.server import bounds
from ellm.server.answer import Answer
from ellm.server.errors import ApiError
from ellm.server.logprobs import TextLogprobs, of_text
from ellm.server.openai_chat import FinishReason, Hint, OpenAIEvents, Streamed, finish_reason
from ellm.server.replies import Frame, event
from ellm.server.sampling_fields import Sampling, TokenId
from ellm.server.service import Call
from ellm.server.usage import Usage, usage_of
from ellm.server.validation import Record, left_out, only
from ellm.serving.output import Drawn
from ellm.serving.sampling import MOST_LIKELY
from ellm.text.piece import Piece

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


async def complete(call: Call, request: CompletionRequest) -> Completion | _Chunks:
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
    if request.echo:
        for choice in choices:
            await choice.echo()
    head: dict[str, Any] = {"id": f"cmpl-{call.id}", "created": int(time.time()), "model": request.model}
    if request.stream:
        return _Chunks(choices, head, request.with_usage, params.n)
    for choice in choices:
        await choice.answer.whole()
    made = [choice.more(choice.text, choice.end) for choice in choices]
    return Completion(**head, choices=made, usage=_usage(choices, params.n))


class _Choice:
    """A continuation, of which the client gets what is new each time."""

    def __init__(self, call: Call, request: CompletionRequest, answer: Answer, index: int):
        self._service, self._request, self.answer, self._index = call.service, request, answer, index
        self._read = self._offset = 0
        self._prompt: str | None = None  # with `echo`, until it is sent

    async def echo(self) -> None:
        """Have the prompt before the first part."""
        tokenizer = self._service.llm.tokenizer
        self._prompt = await self._service.off_loop(tokenizer.decode, self.answer.output.prompt_token_ids)

    @property
    def text(self) -> str:
        """All that was generated."""
        return "" if self._request.max_tokens == 0 else self.answer.output.text

    @property
    def end(self) -> FinishReason:
        """Why it ended."""
        return "length" if self._request.max_tokens == 0 else finish_reason(self.answer.output)

    @property
    def plain(self) -> bool:
        """Whether its next part is text alone."""
        return self._prompt is None and self._request.logprobs is None and self._request.max_tokens != 0

    def more(self, text: str, end: FinishReason | None = None) -> Choice:
        """Its next part, the prompt before the first one with `echo`."""
        prompt, self._prompt = self._prompt, None
        nothing, logprobs = self._request.max_tokens == 0, None
        if self._request.logprobs is not None:
            drawn = Drawn([], [], None) if nothing else self.answer.drawn(self._read)
            output = None if prompt is None else self.answer.output
            logprobs, self._offset = of_text(self._service, drawn, output, self._offset)
            self._read += len(drawn.token_ids)
        text = (prompt or "") + ("" if nothing else text)
        return Choice(index=self._index, text=text, logprobs=logprobs, finish_reason=end)


def _usage(choices: Sequence[_Choice], each: int) -> Usage:
    outputs = [choice.answer.output for choice in choices]
    if choices[0]._request.max_tokens == 0:
        outputs = [replace(output, token_ids=[]) for output in outputs]
    return usage_of(outputs, each)


class _Chunks(OpenAIEvents):
    """The events of a streamed reply."""

    def __init__(self, choices: Sequence[_Choice], head: dict[str, Any], with_usage: bool, each: int):
        super().__init__([choice.answer for choice in choices])
        self._choices, self._head, self._with_usage, self._each = choices, head, with_usage, each
        plain = [Choice(index=index, text="", finish_reason=None) for index in range(len(choices))]
        self._frames = [Frame(Completion(**head, choices=[choice]), "text") for choice in plain]

    def more(self, index: int, piece: Piece) -> bytes:
        choice = self._choices[index]
        return self._frames[index].event(piece.text) if choice.plain else self._event([choice.more(piece.text)])

    def end(self, index: int) -> bytes:
        choice = self._choices[index]
        return self._event([choice.more("", choice.end)])

    def last(self) -> bytes:
        usage = self._event([], _usage(self._choices, self._each)) if self._with_usage else b""
        return usage + super().last()

    def _event(self, choices: list[Choice], usage: Usage | None = None) -> bytes:
        return event(Completion(**self._head, choices=choices, usage=usage).model_dump_json())
