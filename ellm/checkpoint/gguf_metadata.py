"""The metadata of a GGUF file, wherever they are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from ellm.system.errors import InputError

Value = TypeVar("Value")


class Metadata:
    """Values by key. `path` is the file for messages, `asked` are the keys that somebody has asked for."""

    def __init__(self, path: Path, metadata: dict[str, Any]):
        self.path = path
        self.metadata = metadata
        self.asked: set[str] = set()

    def field(self, key: str, kind: type[Value], default: Value | None = None) -> Value:
        """A metadata value of this type; `default` if it is absent.

        Raises InputError if it is of another type, or absent without a default.
        """
        self.asked.add(key)
        value = self.metadata.get(key, default)
        if value is None:
            raise InputError(f"{self.path}: {key} is missing")
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            found = f"{type(value).__name__} {str(value)[:40]!r}"
            raise InputError(f"{self.path}: {key} is {found}, must be {kind.__name__}")
        return value  # type: ignore[return-value]
