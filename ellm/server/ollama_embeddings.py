"""`/api/embed` and `/api/embeddings`: Ollama's requests for vectors, of which the second is its older one."""

from __future__ import annotations

import time
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic_core import to_json

from ellm.server import bounds
from ellm.server.ollama_chat import KeepAlive, Options, check_context
from ellm.server.openai_embeddings import Dimensions
from ellm.server.replies import Content, with_items
from ellm.server.service import Call
from ellm.server.validation import Body, Record
from ellm.serving.embedding import EmbeddingOutput
from ellm.serving.pooling import PoolingParams


class OllamaEmbedding(Body):
    """What both have. `truncate` changes nothing: what is too long is refused."""

    model: Annotated[str, Field(max_length=bounds.NAME_CHARACTERS)]
    truncate: bool | None = None
    options: Options | None = None
    keep_alive: KeepAlive | None = None


class EmbedRequest(OllamaEmbedding):
    """Texts."""

    renamed: ClassVar = {"prompt": "input"}

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


async def embed(call: Call, request: EmbedRequest) -> Content:
    """Embed texts: an Embedded."""
    begun = time.perf_counter_ns()
    texts = [request.input] if isinstance(request.input, str) else request.input
    outputs = await _outputs(call, request, [] if texts == [""] else texts, PoolingParams(request.dimensions, True))
    reply = Embedded(
        model=request.model,
        embeddings=[],
        total_duration=time.perf_counter_ns() - begun,
        prompt_eval_count=sum(len(output.prompt_token_ids) for output in outputs),
    )
    items = (to_json(output.embedding.tolist()).decode() for output in outputs)
    return await call.service.off_loop(with_items, reply, "embeddings", items)


async def old_embed(call: Call, request: OldEmbedRequest) -> OldEmbedded:
    """Embed a text."""
    texts = [request.prompt] if request.prompt else []
    outputs = await _outputs(call, request, texts, PoolingParams(normalize=False))
    return OldEmbedded(embedding=outputs[0].embedding.tolist() if outputs else [])


async def _outputs(
    call: Call, request: OllamaEmbedding, texts: list[str], params: PoolingParams
) -> list[EmbeddingOutput]:
    call.service.check_name(request.model)
    check_context(call, request.options or Options())
    return await call.embed(texts, params) if texts else []
