"""How many tokens a request took, as OpenAI counts them."""

from __future__ import annotations

from collections.abc import Sequence

from ellm.server.validation import Record
from ellm.serving.output import Output


class PromptDetails(Record):
    """Of the prompt's tokens."""

    cached_tokens: int


class CompletionDetails(Record):
    """Of the tokens generated."""

    reasoning_tokens: int


class Usage(Record):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


def usage_of(outputs: Sequence[Output], each: int = 1) -> Usage:
    """Of all answers to a request together; `each` of them follow the same prompt, which counts once."""
    firsts = outputs[::each]
    prompt = sum(len(output.prompt_token_ids) for output in firsts)
    generated = sum(len(output.token_ids) for output in outputs)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=generated,
        total_tokens=prompt + generated,
        prompt_tokens_details=PromptDetails(cached_tokens=sum(one.metrics.cached_tokens for one in firsts)),
        completion_tokens_details=CompletionDetails(
            reasoning_tokens=sum(output.metrics.reasoning_tokens for output in outputs)
        ),
    )
