"""The fields of a request that say how to choose tokens and when to stop: OpenAI's names, and vLLM's beyond them."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from pydantic import Field

from ellm.server import bounds
from ellm.server.structured import StructuredFields
from ellm.server.validation import Body
from ellm.serving.sampling import MOST_ANSWERS, MOST_BIASES, SamplingParams

StopText = Annotated[str, Field(min_length=1, max_length=bounds.STOP_CHARACTERS)]
Stop = StopText | Annotated[list[StopText], Field(max_length=bounds.STOPS)]
Temperature = Annotated[float, Field(ge=0, le=100)]
TopP = Annotated[float, Field(gt=0, le=1)]
TopK = Annotated[int, Field(ge=-1, le=(1 << 31) - 1)]
MinP = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(gt=0, le=1000)]
MaxTokens = Annotated[int, Field(ge=1, le=(1 << 31) - 1)]
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
Presence = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
LogitBias = Annotated[dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Bias], Field(max_length=MOST_BIASES)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]


class Sampling(Body):
    """Where a field is left out or null, the model's own default counts."""

    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: Penalty | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=bounds.STOP_IDS)] | None = None
    ignore_eos: bool | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    presence_penalty: Presence | None = None
    frequency_penalty: Presence | None = None
    logit_bias: LogitBias | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    include_stop_str_in_output: bool | None = None
    structured_outputs: StructuredFields | None = None

    def params(self, defaults: SamplingParams, max_tokens: int | None, **others: Any) -> SamplingParams:
        """With `defaults` for what is not given; `others` are fields of SamplingParams. Raises InputError."""
        return sampling(
            defaults,
            max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repeat_penalty=self.repetition_penalty,
            seed=self.seed,
            stop=self.stop,
            stop_token_ids=self.stop_token_ids,
            ignore_eos=self.ignore_eos,
            n=self.n,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias={int(token): number for token, number in (self.logit_bias or {}).items()} or None,
            min_tokens=self.min_tokens,
            include_stop_str_in_output=self.include_stop_str_in_output,
            **{"structured_outputs": self.structured_outputs and self.structured_outputs.outputs(), **others},
        )


def sampling(defaults: SamplingParams, max_tokens: int | None, **given: Any) -> SamplingParams:
    """`defaults` with what is given; `max_tokens` None: until the answer ends or the context is full."""
    fields = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(defaults, max_tokens=max_tokens, **fields)
