"""Names of modules by the patterns of a config, which whoever wrote the file chose: none may take long."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ellm.models.fields import Fields

Test = Callable[[str], bool]
"""Whether a module is meant, by its name."""

_LONGEST = 2048  # characters
_MOST_REPEATS = 4
"""Of a name of 60 letters, 60^4 / 4! ways to share it between so many repeats take some 10 ms."""
_CLASS_OR_ESCAPE = re.compile(r"\\.|\[\^?\]?[^\]]*\]", re.DOTALL)


def begins(pattern: str) -> Test:
    """Those whose names begin as a regular expression says (`re.match`). Raises ValueError, with a reason.

    Refused is what can take long: groups that are repeated, and many repeats one after the other.
    """
    if len(pattern) > _LONGEST:
        raise ValueError(f"has {len(pattern)} characters, at most {_LONGEST} are plausible")
    bare = _CLASS_OR_ESCAPE.sub("x", pattern)
    if re.search(r"\)[*+{]", bare) or any(len(re.findall("[*+{]", one)) > _MOST_REPEATS for one in bare.split("|")):
        raise ValueError("is a regular expression that could take long")
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return lambda name: compiled.match(name) is not None


def within(pattern: str) -> Test:
    """What transformers means by a pattern of `modules_to_not_convert`. Raises ValueError as `begins` does.

    It is a regular expression for whole parts of a name from its beginning on, or else the end of a name
    (transformers/quantizers/quantizers_utils.py, should_convert_module).
    """
    begin = begins(rf"(?:{pattern})(?:(?<=\.)|(?=\.|$))")
    return lambda name: name.endswith(pattern) or begin(name)


def named(pattern: str) -> Test:
    """What compressed-tensors means by a name, or "re:" and a regular expression. Raises as `begins` does."""
    return begins(pattern.removeprefix("re:")) if pattern.startswith("re:") else pattern.__eq__


def any_of(fields: Fields, field: str, patterns: Iterable[str], meaning: Callable[[str], Test]) -> Test:
    """Those that any pattern of a field means; asked for the first time, it raises InputError if one cannot be used."""
    tests: list[Test] = []
    unread = [*patterns]

    def test(name: str) -> bool:
        while unread:
            try:
                tests.append(meaning(unread[0]))
            except ValueError as error:
                raise fields.problem(field, f"{unread[0]!r} {error}") from error
            unread.pop(0)
        return any(test(name) for test in tests)

    return test
