"""What the package `tokenizers` makes of broken files: it raises plain Exceptions, or panics and prints where."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ellm.system.errors import InputError, one_line


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Raise InputError, `what` and a reason, for anything that the package raises."""
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or _is_panic(error):
            raise InputError(f"{what}: {one_line(error)}") from error
        raise


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """`telling`, and what a panic prints is not shown: for when nothing else runs yet that may write to stderr."""
    with telling(what), _without_stderr():
        yield


def _is_panic(error: BaseException) -> bool:
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
