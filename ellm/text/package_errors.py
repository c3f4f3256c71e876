"""What the package `tokenizers` makes of broken files: it raises plain Exceptions, or panics and prints where."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeGuard

from ellm.system.errors import InputError, one_line


class telling:
    """Raise InputError, `what` and a reason, for anything that the package raises.

    No generator, whose frame each token of each answer would pay for.
    """

    def __init__(self, what: str):
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, InputError) and (isinstance(error, Exception) or _is_panic(error)):
            raise InputError(f"{self._what}: {one_line(error)}") from error


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """`telling`, and what a panic prints is not shown: for when nothing else runs yet that may write to stderr."""
    with telling(what), _without_stderr():
        yield


def _is_panic(error: BaseException | None) -> TypeGuard[BaseException]:
    """Whether this is a panic of Rust, which is no Exception, and whose class cannot be imported."""
    return type(error).__name__ == "PanicException"


@contextmanager
def _without_stderr() -> Iterator[None]:
    """The panic is printed to the file descriptor, before Python knows of it."""
    try:
        kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # there is no stderr
        yield
        return
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
