"""`/tokenize`, `/detokenize` and `/v1/chat/completions/render`: what becomes of a text before the model sees it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from ellm.server import bounds
from ellm.server.errors import ApiError
from ellm.server.messages import Message, conversation
from ellm.server.openai_chat import ChatRequest
from ellm.server.sampling_fields import TokenId
from ellm.server.service import Call
from ellm.server.template_fields import TemplateKwargs, variables
from ellm.server.tools import Tools, offered
from ellm.server.validation import Body, Record, left_out

Name = Annotated[str, Field(max_length=bounds.NAME_CHARACTERS)]


class TokenizeRequest(Body):
    """A text, whose control tokens are such, or a conversation."""

    model: Name | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=bounds.MESSAGES)] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    return_token_strs: bool | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    tools: Tools | None = None


class Tokens(Record):
    """Token ids of it."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = left_out()


class DetokenizeRequest(Body):
    """Token ids."""

    model: Name | None = None
    tokens: Annotated[list[TokenId], Field(min_length=1)]


class Text(Record):
    """Their text, control tokens included."""

    prompt: str


class Rendered(Record):
    """What the model would be given."""

    prompt: str
    token_ids: list[int]


async def tokenize(call: Call, request: TokenizeRequest) -> Tokens:
    """Token ids of a text or a conversation."""
    _check_name(call, request.model)
    tokenizer = call.service.llm.tokenizer
    if (request.prompt is None) == (request.messages is None):
        given = "neither" if request.prompt is None else "both"
        raise ApiError(400, f"one of prompt and messages must be given, not {given}", param="prompt")
    if request.prompt is not None:
        ids = await call.service.off_loop(tokenizer.encode, request.prompt, request.add_special_tokens)
    else:
        tools = offered(request.tools)
        ids = await _chat_ids(
            call, request.messages or [], request.add_generation_prompt, request.chat_template_kwargs, tools=tools
        )
    texts = None
    if request.return_token_strs:
        texts = await call.service.off_loop(lambda: [tokenizer.decode([one], skip_special=False) for one in ids])
    return Tokens(count=len(ids), max_model_len=call.service.llm.context, tokens=ids, token_strs=texts)


async def detokenize(call: Call, request: DetokenizeRequest) -> Text:
    """The text of token ids. Raises ApiError for one that there is not."""
    _check_name(call, request.model)
    tokenizer, vocab = call.service.llm.tokenizer, call.service.llm.runtime.program.vocab
    for at, token in enumerate(request.tokens):
        if token >= vocab:
            param = f"tokens[{at}]"
            raise ApiError(400, f"{param}: token id {token} is not in the vocabulary of {vocab}", param=param)
    return Text(prompt=await call.service.off_loop(lambda: tokenizer.decode(request.tokens, skip_special=False)))


async def render(call: Call, request: ChatRequest) -> Rendered:
    """What a request of `/v1/chat/completions` would give the model."""
    call.service.check_name(request.model)
    effort, tools = request.reasoning_effort, offered(request.tools)
    ids = await _chat_ids(call, request.messages, True, request.chat_template_kwargs, effort, tools)
    tokenizer = call.service.llm.tokenizer
    text = await call.service.off_loop(lambda: tokenizer.decode(ids, skip_special=False))
    return Rendered(prompt=text, token_ids=ids)


async def _chat_ids(
    call: Call,
    messages: list[Message],
    generation: bool,
    given: TemplateKwargs | None,
    effort: str | None = None,
    tools: list[dict[str, Any]] | None = None,
) -> list[int]:
    tokenizer = call.service.llm.tokenizer
    kwargs = variables(tokenizer, given, effort)
    return await call.service.off_loop(
        lambda: tokenizer.chat(conversation(messages), generation, tools or None, chat_template_kwargs=kwargs)
    )


def _check_name(call: Call, name: Any) -> None:
    if name is not None:
        call.service.check_name(name)
