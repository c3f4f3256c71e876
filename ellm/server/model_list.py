"""`/v1/models`: what this server has, for OpenAI's and for Anthropic's clients alike."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from ellm.server.service import Call, Service
from ellm.server.validation import Record


class ModelCard(Record):
    """A name of the model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["ellm"] = "ellm"
    max_model_len: int
    type: Literal["model"] = "model"
    display_name: str
    created_at: str


class ModelList(Record):
    """All of its names."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
    has_more: Literal[False] = False
    first_id: str
    last_id: str


async def models(call: Call, _: Any) -> ModelList:
    """The names that requests may use."""
    names = call.service.names
    return ModelList(data=[_card(call.service, name) for name in names], first_id=names[0], last_id=names[-1])


async def model(call: Call, path: dict[str, str]) -> ModelCard:
    """One of them. Raises ApiError 404."""
    call.service.check_name(path["model"])
    return _card(call.service, path["model"])


def _card(service: Service, name: str) -> ModelCard:
    return ModelCard(
        id=name,
        created=service.created,
        max_model_len=service.llm.context,
        display_name=name,
        created_at=datetime.fromtimestamp(service.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
