"""`/api/tags`, `/api/show`, `/api/version`: what Ollama's clients ask of a server before they use it."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field

from ellm.server import bounds
from ellm.server.service import Call, Service
from ellm.server.validation import Body, Record

_API = "0.13.0"  # Ollama's version that had all that is here; clients ask for one at least


class Version(Record):
    """Of Ollama's API."""

    version: str


class Details(Record):
    """What a model is."""

    parent_model: str = ""
    format: Literal["ellm"] = "ellm"
    family: str
    families: list[str]
    parameter_size: str = ""
    quantization_level: str = ""


class Tag(Record):
    """A name of the model. `size` is what its weights take in memory."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class Tags(Record):
    """All of its names."""

    models: list[Tag]


class ShowRequest(Body):
    """A name of the model. Older clients call it `name`."""

    model: Annotated[str, Field(max_length=bounds.NAME_CHARACTERS, validation_alias=AliasChoices("model", "name"))]
    verbose: bool | None = None


class Shown(Record):
    """What is known of it."""

    modelfile: str = ""
    parameters: str = ""
    template: str = ""
    details: Details
    model_info: dict[str, str | int]
    capabilities: list[str]
    modified_at: str


async def version(call: Call, _: Any) -> Version:
    """Of Ollama's API, not of ellm."""
    return Version(version=_API)


async def tags(call: Call, _: Any) -> Tags:
    """The names that requests may use."""
    service = call.service
    return Tags(
        models=[
            Tag(
                name=name,
                model=name,
                modified_at=_since(service),
                size=service.llm.runtime.program.weights_bytes,
                digest=hashlib.sha256(name.encode()).hexdigest(),
                details=_details(service),
            )
            for name in service.names
        ]
    )


async def show(call: Call, request: ShowRequest) -> Shown:
    """What is known of a model."""
    service = call.service
    service.check_name(request.model)
    family = _family(service)
    return Shown(
        details=_details(service),
        model_info={"general.architecture": family, f"{family}.context_length": service.llm.context},
        capabilities=_capabilities(service),
        modified_at=_since(service),
    )


def _capabilities(service: Service) -> list[str]:
    """Embedding is one of models that were made for it, though any can: clients take those for no chat models."""
    checkpoint = service.llm.runtime.checkpoint
    found = {
        "completion": not checkpoint.headless,
        "tools": service.takes_tools and not checkpoint.headless,
        "thinking": service.thinks and not checkpoint.headless,
        "embedding": checkpoint.headless or checkpoint.pooling.kind != "",
    }
    return [name for name, has in found.items() if has]


def _details(service: Service) -> Details:
    return Details(family=_family(service), families=[_family(service)])


def _family(service: Service) -> str:
    return str(service.llm.runtime.compiled.source.config.get("model_type", "unknown"))


def _since(service: Service) -> str:
    return datetime.fromtimestamp(service.created, UTC).isoformat().replace("+00:00", "Z")
