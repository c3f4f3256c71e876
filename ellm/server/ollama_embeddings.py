"""`/api/embed` and `/api/embeddings`: Ollama's requests for vectors, of which the second is its older one."""

from __future__ import annotations

import time
from typing import Annotated

from pydantic import Field

from ellm.server import bounds
from ellm.server.ollama_chat import KeepAlive, Options, check_context
from ellm.server.openai_embeddings import Dimensions
from ellm.server.service import Call
from ellm.server.validation import Body, Record
from ellm.serving.pooling import PoolingParams


class OllamaEmbedding(Body):
    """What both have. `truncate` changes nothing: what is too long is refused."""

    model: Annotated[str, Field(max_length=bounds.NAME_CHARACTERS)]
    truncate: bool | None = None
    options: Options | None = None
    keep_alive: KeepAlive | None = None


class EmbedRequest(OllamaEmbedding):
    """Texts."""

    input: str | Annotated[list[str], Field(max_length=bounds.EMBEDDINGS)] = ""
    dimensions: Dimensions | None = None


class OldEmbedRequest(OllamaEmbedding):
    """A text."""

    prompt: str = ""


class Embedded(Record):
    """The vectors in the order of the texts, of length 1; none where there is no text, which loads the model."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int = 0
    prompt_eval_count: int


class OldEmbedded(Record):
    """The vector, of any length."""

    embedding: list[float]


async def embed(call: Call, request: EmbedRequest) -> Embedded:
    """Embed texts."""
    begun = time.perf_counter_ns()
    texts = [request.input] if isinstance(request.input, str) else request.input
    texts = [] if texts == [""] else texts
    found, tokens = await _vectors(call, request, texts, PoolingParams(request.dimensions, normalize=True))
    took = time.perf_counter_ns() - begun
    return Embedded(model=request.model, embeddings=found, total_duration=took, prompt_eval_count=tokens)


async def old_embed(call: Call, request: OldEmbedRequest) -> OldEmbedded:
    """Embed a text."""
    found, _ = await _vectors(call, request, [request.prompt] if request.prompt else [], PoolingParams(normalize=False))
    return OldEmbedded(embedding=found[0] if found else [])


async def _vectors(
    call: Call, request: OllamaEmbedding, texts: list[str], params: PoolingParams
) -> tuple[list[list[float]], int]:
    """The vectors, and how many tokens they are of."""
    call.service.check_name(request.model)
    check_context(call, request.options or Options())
    outputs = await call.embed(texts, params) if texts else []
    tokens = sum(len(output.prompt_token_ids) for output in outputs)
    return [output.embedding.tolist() for output in outputs], tokens
