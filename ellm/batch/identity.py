"""What decides on the bytes of a batch's answers, and the name that follows from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from ellm.checkpoint.names import files_of, find
from ellm.system.errors import InputError

_PIECES, _PIECE = 16, 1 << 16  # of a large file: how many are read, spread evenly, and of how many bytes


def digest_of_model(name: str) -> str:
    """Names, sizes and a sample of the bytes of a model's files, in hex digits: to tell models apart in no time.

    Raises InputError if there is no such model.
    """
    found = hashlib.sha256()
    try:
        for file in files_of(find(name, progress=True).path):
            size = file.stat().st_size
            found.update(json.dumps([file.name, size]).encode())
            _sample(found, file, size)
    except OSError as error:
        raise InputError(f"{error.filename or name}: cannot be read: {error.strerror}") from error
    return found.hexdigest()[:16]


def _sample(found: hashlib._Hash, file: Path, size: int) -> None:
    with file.open("rb") as opened:
        for i in range(_PIECES):
            opened.seek(max(size - _PIECE, 0) * i // (_PIECES - 1))
            found.update(opened.read(_PIECE))


def batch_id(about: Mapping[str, str]) -> str:
    """A name for a batch: equal if everything that decides on the bytes of its answers is."""
    return hashlib.sha256(json.dumps(sorted(about.items())).encode()).hexdigest()[:12]
