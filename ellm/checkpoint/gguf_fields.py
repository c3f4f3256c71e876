"""The metadata of a GGUF file's architecture: numbers, checked, also where there is one for each layer."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from ellm.checkpoint.gguf_file import GGUFFile
from ellm.system.errors import InputError

_LARGEST = (1 << 31) - 1
Value = TypeVar("Value")


class ModelFields:
    """The fields that begin with the file's general.architecture; names are what follows it and a dot."""

    def __init__(self, file: GGUFFile):
        self.file = file
        self.architecture = file.field("general.architecture", str)

    def key(self, name: str) -> str:
        """The key of a field."""
        return f"{self.architecture}.{name}"

    def error(self, name: str, problem: str) -> InputError:
        """Make the error for a field; the caller raises it."""
        value = self.file.metadata.get(self.key(name))
        shown = f"{str(value[:8])[:-1]}, ...]" if isinstance(value, list) and len(value) > 8 else repr(value)
        return InputError(f"{self.file.path}: {self.key(name)} is {shown}, {problem}")

    def size(self, name: str, default: int | None = None) -> int:
        """A count of at least 1, the same in all layers. Raises InputError."""
        return self._bounded(name, default, 1)

    def count(self, name: str, default: int = 0) -> int:
        """A count that may be 0, the same in all layers. Raises InputError."""
        return self._bounded(name, default, 0)

    def _bounded(self, name: str, default: int | None, least: int) -> int:
        value = self._uniform(name, int, default)
        if not least <= value <= _LARGEST:
            raise self.error(name, f"must be at least {least} and below 2^31")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number, the same in all layers. Raises InputError."""
        return self._uniform(name, float, default)

    def flag(self, name: str) -> bool:
        """Whether it is so; not if the field is absent. Raises InputError."""
        return self.file.field(self.key(name), bool, False)

    def text(self, name: str, default: str) -> str:
        """A text. Raises InputError."""
        return self.file.field(self.key(name), str, default)

    def per_layer(self, name: str, layers: int) -> list[Any] | None:
        """A list with an entry for each layer; None if the field is no list. Raises InputError."""
        value = self.file.metadata.get(self.key(name))
        if not isinstance(value, list):
            return None
        self.file.asked.add(self.key(name))
        if len(value) != layers:
            raise self.error(name, f"has {len(value)} values, the model {layers} layers")
        return value

    def _uniform(self, name: str, kind: type[Value], default: Value | None) -> Value:
        values = self.per_layer(name, self.layers) if name != "block_count" else None
        if values is None:
            return self.file.field(self.key(name), kind, default)
        if any(type(value) is not kind for value in values):
            raise self.error(name, f"must be {kind.__name__}s")
        if len(set(values)) > 1:
            raise self.error(name, "must be the same in all layers")
        return values[0]

    @property
    def layers(self) -> int:
        """How many layers the model has. Raises InputError if they are more than its tensors."""
        layers = self.size("block_count")
        if layers > len(self.file.tensors):
            raise self.error("block_count", f"its file has {len(self.file.tensors)} tensors only")
        return layers


def shortest(value: float) -> float:
    """The shortest decimal that rounds to this float32: 1e-05 for 9.999999747378752e-06."""
    return float(str(np.float32(value)))
