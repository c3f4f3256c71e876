"""`/v1/embeddings`: texts or token ids to vectors."""

from __future__ import annotations

import base64
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ellm.server import bounds
from ellm.server.openai_chat import Hint
from ellm.server.replies import Content, with_items
from ellm.server.sampling_fields import TokenId
from ellm.server.service import Call
from ellm.server.validation import Body, Record
from ellm.serving.embedding import EmbeddingOutput
from ellm.serving.pooling import PoolingParams

Text = Annotated[str, Field(min_length=1)]
Tokens = Annotated[list[TokenId], Field(min_length=1)]
Input = Text | Tokens | Annotated[list[Text | Tokens], Field(min_length=1, max_length=bounds.EMBEDDINGS)]
Dimensions = Annotated[int, Field(ge=1, lt=1 << 31)]


class EmbeddingsRequest(Body):
    """Texts, whose control tokens are such, or token ids."""

    renamed: ClassVar = {"prompt": "input"}

    model: Annotated[str, Field(max_length=bounds.NAME_CHARACTERS)]
    input: Input
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Dimensions | None = None
    user: Hint | None = None


class EmbeddingItem(Record):
    """The vector of one input: numbers, or in base64 the bytes of float32, little-endian."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(Record):
    """Tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsReply(Record):
    """The vectors in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingsUsage


async def embeddings(call: Call, request: EmbeddingsRequest) -> Content:
    """Embed inputs: an EmbeddingsReply."""
    call.service.check_name(request.model)
    outputs = await call.embed(request.input, PoolingParams(dimensions=request.dimensions))
    tokens = sum(len(output.prompt_token_ids) for output in outputs)
    usage = EmbeddingsUsage(prompt_tokens=tokens, total_tokens=tokens)
    reply = EmbeddingsReply(data=[], model=request.model, usage=usage)
    encode = _as_base64 if request.encoding_format == "base64" else _as_numbers
    items = (
        EmbeddingItem(index=index, embedding=encode(output)).model_dump_json() for index, output in enumerate(outputs)
    )
    return await call.service.off_loop(with_items, reply, "data", items)


def _as_numbers(output: EmbeddingOutput) -> list[float]:
    return output.embedding.tolist()


def _as_base64(output: EmbeddingOutput) -> str:
    return base64.b64encode(output.embedding.astype("<f4").tobytes()).decode()
