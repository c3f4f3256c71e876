"""The lines of the input, which may be larger than memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ellm.system.errors import InputError

LONGEST = 64 << 20  # bytes of a line


class Lines:
    """A file of requests, one a line; blank lines are none. `count` are the requests, `digest` is of the whole file.

    Raises InputError if the file cannot be read, or is no file: it is read twice.
    """

    def __init__(self, path: Path):
        self.path = path
        if not path.is_file():
            raise InputError(f"{path}: {'is not a file' if path.exists() else 'there is no such file'}")
        digest, self.count = hashlib.sha256(), 0
        with _reading(path) as file:
            for begin, end, text in _pieces(file):
                digest.update(text)
                self.count += begin and (not end or not text.isspace())
        self.digest = digest.hexdigest()

    def __iter__(self) -> Iterator[tuple[int, bytes | None]]:
        """Each request's line number, from 1, and the line; None for one of more than LONGEST bytes."""
        number, whole = 0, False
        with _reading(self.path) as file:
            for begin, end, text in _pieces(file):
                number += begin
                whole = begin and end
                if begin and not (whole and text.isspace()):
                    yield number, text if whole else None


def _reading(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _pieces(file: IO[bytes]) -> Iterator[tuple[bool, bool, bytes]]:
    """Lines in pieces of at most LONGEST bytes, and whether each begins and ends one."""
    begin = True
    while text := file.readline(LONGEST):
        end = len(text) < LONGEST or text.endswith(b"\n")
        yield begin, end, text
        begin = end
