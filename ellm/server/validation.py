"""Bodies of requests: strict records, whose errors name the field as the client wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from ellm.server.errors import ApiError
from ellm.system.errors import one_line

_SHOWN = 100  # characters of a value in an error
_DEEPER_THAN_ALL = 1 << 30


class Body(BaseModel):
    """What a client sends. A field that is not here is refused by name."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())
    renamed: ClassVar[dict[str, str]] = {}
    """Fields by the names that the Python API has for them, where these differ."""

    def field_of(self, argument: str) -> str | None:
        """The field that became an argument of the Python API; None if there is none."""
        field = self.renamed.get(argument, argument)
        return field if field.partition(".")[0] in type(self).model_fields else None


class Record(BaseModel):
    """What a client gets."""

    model_config = ConfigDict(protected_namespaces=())


M = TypeVar("M", bound=BaseModel)


def only(*values: Any) -> Any:
    """The type of a field that this server does not do: it may have the values that change nothing, or be left out."""

    def check(value: Any) -> Any:
        if not any(type(value) is type(one) and value == one for one in values):
            raise ValueError(f"is not supported here; it may be {' or '.join(map(_json, values))}")
        return value

    def same(value: Any) -> Any:
        return check(int(value) if isinstance(value, float) and value.is_integer() else value)

    return Annotated[Any, AfterValidator(same), WithJsonSchema({"enum": list(values)})]


def left_out() -> Any:
    """A field that is None, and not sent, where there is nothing to say."""
    return Field(default=None, exclude_if=lambda value: value is None)


def validated(model: type[M], value: dict[str, Any]) -> M:
    """The record. Raises ApiError 400 that names the first field at fault, and its value."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        errors: list[Any] = error.errors(include_url=False)
        raise _refusal(max(errors, key=lambda one: _telling(one, value)), value) from None


def _telling(error: Any, value: dict[str, Any]) -> tuple[int, int]:
    """How much an error says: of the kinds that a field may be, that one's which fits furthest.

    A list with too many items fits in all else.
    """
    kind = error["type"]
    if kind == "too_long":
        return _DEEPER_THAN_ALL, 0
    rank = (
        0 if kind.endswith("_type") else 1 if kind in ("missing", "extra_forbidden") else 3 if "literal" in kind else 2
    )
    return len(_path(error["loc"], value)), rank


def _refusal(error: Any, value: dict[str, Any]) -> ApiError:
    param = named(_path(error["loc"], value))
    if error["type"] == "extra_forbidden":
        return ApiError(400, f"{param} is not a field that this server knows", param=param, code="unknown_parameter")
    if error["type"] == "missing":
        return ApiError(400, f"{param} is missing", param=param, code="missing_required_parameter")
    if error["type"] == "union_tag_not_found":
        return ApiError(400, f"{param}.type is missing", param=f"{param}.type", code="missing_required_parameter")
    if error["type"] == "union_tag_invalid":
        tag, tags = one_line(error["ctx"]["tag"], _SHOWN), error["ctx"]["expected_tags"]
        return ApiError(
            400, f"{param}.type must be one of {tags}, not {tag!r}", param=f"{param}.type", code="invalid_value"
        )
    if error["type"] == "value_error":
        text = error["msg"].removeprefix("Value error, ")
        code = "unsupported_parameter" if text.startswith("is not supported") else "invalid_value"
        return ApiError(400, f"{param} {text}, not {_json(error['input'])}", param=param, code=code)
    message = f"{param}: {error['msg'][:1].lower()}{error['msg'][1:]}"
    if error["type"] not in ("too_short", "too_long"):  # which say how many there are
        message += f", not {_json(error['input'])}"
    return ApiError(400, message, param=param, code="invalid_value")


def _path(loc: Sequence[str | int], value: Any) -> list[str | int]:
    """Where that is in the value: without the names that pydantic gives to the kinds of a union."""
    path: list[str | int] = []
    for at, step in enumerate(loc):
        if isinstance(value, dict) and (
            step in value or (at == len(loc) - 1 and isinstance(step, str) and value is not None)
        ):
            path.append(step)
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int):
            path.append(step)
            value = value[step] if step < len(value) else None
    return path


def named(path: Sequence[str | int]) -> str:
    """A path as `messages[0].role`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".") or "the request"


def _json(value: Any) -> str:
    names = {None: "null", True: "true", False: "false"}
    try:
        return names[value] if value is None or isinstance(value, bool) else one_line(repr(value), _SHOWN)
    except RecursionError:
        return type(value).__name__
