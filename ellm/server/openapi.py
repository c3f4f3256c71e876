"""The OpenAPI page, from the records that requests are checked by."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ellm import __version__
from ellm.server.access import OPEN
from ellm.server.endpoint import Operation

_REF = "#/components/schemas/{model}"
_EVENT = {"type": "object", "properties": {"event": {"type": "string"}, "data": {"type": "string"}}}
_ERRORS = {
    "400": "A field is wrong; the error names it.",
    "401": "There is no key, or a wrong one.",
    "403": "Host or Origin is foreign.",
    "404": "There is no such model.",
    "413": "The request is too long.",
    "415": "The request is compressed.",
    "429": "Too many requests are under way; see Retry-After.",
    "431": "The headers are too long.",
    "500": "The request failed inside the server.",
    "503": "The server is shutting down, or out of memory.",
}


def document(operations: Sequence[Operation]) -> bytes:
    """OpenAPI 3.2 as JSON."""
    models = {(model, mode) for one in operations for model, mode in _models(one)}
    refs, definitions = models_json_schema(
        sorted(models, key=lambda pair: (pair[0].__name__, pair[1])), ref_template=_REF
    )
    paths: dict[str, Any] = {}
    for one in operations:
        paths.setdefault(re.sub(r":\w+}", "}", one.path), {})[one.method.lower()] = _operation(one, refs)
    page = {
        "openapi": "3.2.0",
        "info": {"title": "ellm", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
    return json.dumps(page).encode()


def _models(one: Operation) -> list[tuple[type[BaseModel], Any]]:
    found: list[tuple[type[BaseModel] | None, str]] = [
        (one.request, "validation"),
        (one.response, "serialization"),
        (one.part, "serialization"),
    ]
    return [(model, mode) for model, mode in found if model is not None]


def _operation(one: Operation, refs: Any) -> dict[str, Any]:
    def content(model: type[BaseModel] | None, mode: str, media_type: str) -> dict[str, Any]:
        unknown = {"type": "object" if media_type == "application/json" else "string"}
        return {media_type: {"schema": refs[model, mode] if model is not None else unknown}}

    reply = content(one.response, "serialization", one.media_type)
    if one.part is not None:
        item = _EVENT if one.streams_as == "text/event-stream" else refs[one.part, "serialization"]
        reply[one.streams_as] = {"itemSchema": item}
    error = {"application/json": {"schema": {"type": "object"}}}
    found: dict[str, Any] = {
        "summary": one.summary,
        "operationId": one.handler.__name__,
        "responses": {
            "200": {"description": one.summary, "content": reply},
            **{status: {"description": text, "content": error} for status, text in _ERRORS.items()},
        },
    }
    if one.path not in OPEN:
        found["security"] = [{"key": []}]
    if one.request is not None:
        found["requestBody"] = {"required": True, "content": content(one.request, "validation", "application/json")}
    names = re.findall(r"{(\w+)", one.path)
    if names:
        found["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    return found
