"""Fields of config.json, read strictly: what is missing, of the wrong type or out of range is one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ellm.system.errors import InputError

_MOST = {  # far beyond any model: a damaged file must not cost memory or time without bound
    "vocab_size": 1 << 24,
    "max_position_embeddings": 1 << 24,
    "original_max_position_embeddings": 1 << 24,
    "sliding_window": 1 << 24,
    "moe_intermediate_size": 1 << 16,
    "n_shared_experts": 1 << 6,
}
_MOST |= dict.fromkeys(("head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "rotary_dim"), 1 << 12)
_MOST |= dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_key_value_heads"), 1 << 12)
_MOST |= dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 1 << 12)
_MOST_WIDTH = 1 << 20  # of everything else
_LEAST_NUMBER, _MOST_NUMBER = 1e-15, 1e15  # far from where float32 ends


class Fields:
    """The fields of an object in config.json. null counts as absent, and 4096.0 as 4096.

    It remembers which were asked for: a field that no reader asks for has no effect. `path` is where the object stands,
    "rope_scaling: " for one below the top.
    """

    def __init__(self, values: Mapping[str, Any], path: str = "", asked: set[str] | None = None):
        self._values, self._path = values, path
        self._asked: set[str] = set() if asked is None else asked

    def over(self, **values: Any) -> Fields:
        """Return these fields with other values for some of them."""
        return Fields({**self._values, **values}, self._path, self._asked)

    def under(self, **defaults: Any) -> Fields:
        """Return these fields with values for those that are absent."""
        given = {name: value for name, value in self._values.items() if value is not None}
        return Fields({**defaults, **given}, self._path, self._asked)

    def unasked(self) -> list[str]:
        """Return the paths of the fields with a value that nobody has asked for."""
        found = []
        for name, value in self._values.items():
            path = f"{self._path}{name}"
            if path in self._asked and isinstance(value, Mapping):
                found += Fields(value, f"{path}: ", self._asked).unasked()
            elif path not in self._asked and value is not None:
                found.append(path)
        return found

    def error(self, name: str, problem: str) -> InputError:
        """Make the error for a field; the caller raises it."""
        return InputError(f"config.json: {self._path}{name}: {self._values.get(name)!r} {problem}")

    def problem(self, name: str, text: str) -> InputError:
        """Make an error that says more of a field than its value; the caller raises it."""
        return InputError(f"config.json: {self._path}{name}: {text}")

    def get(self, name: str, default: Any = None) -> Any:
        """Return a value as it is written."""
        self._asked.add(f"{self._path}{name}")
        value = self._values.get(name)
        return default if value is None else value

    def is_null(self, name: str) -> bool:
        """Whether a field is there and null, for those in which that says something else than absence."""
        self._asked.add(f"{self._path}{name}")
        return name in self._values and self._values[name] is None

    def named(self, *names: str) -> str:
        """Return the one of a field's names that the config uses, the first if none."""
        return next((name for name in names if self._values.get(name) is not None), names[0])

    def object(self, name: str) -> Fields:
        """Return the fields of an object, none if it is absent. Raises InputError."""
        value = self.get(name, {})
        if not isinstance(value, Mapping):
            raise self.error(name, "is not an object")
        return Fields(value, f"{self._path}{name}: ", self._asked)

    def objects(self) -> list[str]:
        """Return the names of the fields that are objects."""
        return [name for name, value in self._values.items() if isinstance(value, Mapping)]

    def strings(self, name: str) -> list[str]:
        """Return a list of strings, none if it is absent. Raises InputError."""
        value = self.get(name, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.error(name, "is not a list of names")
        return value

    def size(self, name: str, default: int | None = None) -> int:
        """Return a positive int. Raises InputError."""
        value = self.get(name, default)
        if value is None:
            raise InputError(f"config.json: {self._path}{name}: missing")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise self.error(name, "is not a positive int")
        most = _MOST.get(name, _MOST_WIDTH)
        if value > most:
            raise self.error(name, f"is more than {most}")
        return value

    def count(self, name: str, default: int) -> int:
        """Return an int that may be 0. Raises InputError."""
        value = self.get(name, default)
        return 0 if value == 0 and not isinstance(value, bool) else self.size(name, default)

    def number(self, name: str, default: float | None = None) -> float:
        """Return a positive number. Raises InputError."""
        value = self.get(name, default)
        if value is None:
            raise InputError(f"config.json: {self._path}{name} is missing")
        return self._positive(name, value)

    def numbers(self, name: str, count: int) -> list[float]:
        """Return a list of so many positive numbers. Raises InputError."""
        values = self.get(name)
        if not isinstance(values, list) or len(values) != count:
            found = f"{len(values)} numbers" if isinstance(values, list) else repr(values)
            raise InputError(f"config.json: {self._path}{name}: {found}, {count} are needed")
        return [self._positive(f"{name}[{place}]", value) for place, value in enumerate(values)]

    def _positive(self, name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise InputError(f"config.json: {self._path}{name}: {value!r} is not a positive number")
        if not _LEAST_NUMBER <= value <= _MOST_NUMBER:
            problem = f"is not from {_LEAST_NUMBER} to {_MOST_NUMBER}"
            raise InputError(f"config.json: {self._path}{name}: {value!r} {problem}")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a bool. Raises InputError."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise self.error(name, "is not true or false")
        return value

    def require(self, name: str, *only: Any) -> None:
        """Raise InputError unless a field is absent or has one of these values, the first of which is its usual one."""
        if self.get(name, only[0]) not in only:
            wanted = "" if only[0] is None else f", only {only[0]} is"
            raise self.error(name, f"is not supported{wanted}")
