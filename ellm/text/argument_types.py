"""Arguments that a family writes as bare text: what JSON they are, by the JSON schema of the tool."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ellm.text.python_calls import literal
from ellm.text.strict_json import is_json

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")
_INTEGRAL = re.compile(r"(-?\d+)\.0+")
_WORDS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
_DEEPEST = 8  # schemas within schemas that are looked through
_JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_JSON_TYPES |= {dict: "object", list: "array"}


class Tools:
    """The tools that a model may call, in OpenAI's form: `{"type": "function", "function": {...}}`, or the latter."""

    def __init__(self, tools: Sequence[Any]):
        functions = [tool.get("function", tool) for tool in tools if isinstance(tool, Mapping)]
        self._functions = {
            one["name"]: one for one in functions if isinstance(one, Mapping) and isinstance(one.get("name"), str)
        }

    def __contains__(self, name: object) -> bool:
        return name in self._functions

    @property
    def names(self) -> list[str]:
        """Their names."""
        return list(self._functions)

    def parameters(self, name: str) -> Mapping[str, Any]:
        """The JSON schema of a tool's arguments; an empty one if there is none."""
        found = self._functions.get(name, {}).get("parameters")
        return found if isinstance(found, Mapping) else {}

    def types(self, name: str, key: str) -> frozenset[str]:
        """The JSON types that an argument may have; none if nothing is said."""
        schema = self.parameters(name)
        properties = schema.get("properties")
        found = properties.get(key) if isinstance(properties, Mapping) else None
        return frozenset(_types(found, schema, _DEEPEST))


def as_json(text: str, types: frozenset[str]) -> str:
    """The JSON of a bare text that may be of some types; a string if it is of none of them."""
    bare = text.strip()
    others = types - {"string"} if types else frozenset(_JSON_TYPES.values())
    if found := _WORDS.get(bare):
        if ("null" if found == "null" else "boolean") in others:
            return found
    elif _NUMBER.fullmatch(bare):
        if "number" in others:
            return bare
        if "integer" in others:
            integral = _INTEGRAL.fullmatch(bare)
            return integral[1] if integral else bare
    elif bare[:1] in ("{", "[") and ("object" if bare[0] == "{" else "array") in others:
        if is_json(bare):
            return bare
        value = literal(bare)
        if value is not None:
            return json.dumps(value[0], ensure_ascii=False)
    if "string" not in types and types and is_json(bare):
        return bare
    return json.dumps(text, ensure_ascii=False)


def _types(schema: Any, root: Mapping[str, Any], depth: int) -> Iterator[str]:
    if not isinstance(schema, Mapping) or not depth:
        return
    found = schema.get("type")
    yield from [found] if isinstance(found, str) else filter(lambda one: isinstance(one, str), found or ())
    if schema.get("nullable") is True:
        yield "null"
    for value in [*(schema.get("enum") or ()), *([schema["const"]] if "const" in schema else ())]:
        if found is None:
            yield _JSON_TYPES.get(type(value), "string")
    for word in ("anyOf", "oneOf", "allOf"):
        for one in schema.get(word) or ():
            yield from _types(one, root, depth - 1)
    if isinstance(path := schema.get("$ref"), str) and path.startswith("#/"):
        yield from _types(_referred(root, path), root, depth - 1)


def _referred(root: Any, path: str) -> Any:
    for part in path[2:].split("/"):
        root = root.get(part) if isinstance(root, Mapping) else None
    return root
