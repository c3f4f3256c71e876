"""What an answer must be like, in the words of each protocol."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from ellm.server.messages import Name
from ellm.server.validation import Body
from ellm.serving.structured import StructuredOutputs

Schema = dict[str, Any]
_ANY_OBJECT = {"type": "object"}


class TextFormat(Body):
    """Anything."""

    type: Literal["text"]


class ObjectFormat(Body):
    """A JSON object."""

    type: Literal["json_object"]


class NamedSchema(Body):
    """A JSON schema. It is always kept to, `strict` or not."""

    name: Name | None = None
    description: str | None = None
    schema_: Schema = Field(alias="schema")
    strict: bool | None = None


class SchemaFormat(Body):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class FlatSchemaFormat(NamedSchema):
    """The same in `/v1/responses` and `/v1/messages`."""

    type: Literal["json_schema"]


def _kind(value: Any) -> Any:
    return value.get("type") if isinstance(value, dict) else getattr(value, "type", None)


_Simple = Annotated[TextFormat, Tag("text")] | Annotated[ObjectFormat, Tag("json_object")]
ResponseFormat = Annotated[_Simple | Annotated[SchemaFormat, Tag("json_schema")], Discriminator(_kind)]
FlatFormat = Annotated[_Simple | Annotated[FlatSchemaFormat, Tag("json_schema")], Discriminator(_kind)]


class StructuredFields(Body):
    """vLLM's `structured_outputs`: one of these."""

    json_: str | Schema | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None

    def outputs(self) -> StructuredOutputs:
        """For SamplingParams. Raises InputError unless one is given."""
        return StructuredOutputs(json=self.json_, regex=self.regex, choice=self.choice, grammar=self.grammar)


def wanted(given: Any) -> StructuredOutputs | None:
    """What a format asks for: one of those above, or None."""
    if isinstance(given, ObjectFormat):
        return StructuredOutputs(json=_ANY_OBJECT)
    if isinstance(given, SchemaFormat):
        given = given.json_schema
    return StructuredOutputs(json=given.schema_) if isinstance(given, NamedSchema) else None
