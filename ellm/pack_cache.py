"""Packed models in the user's cache folder: one for each model and way to pack it, made anew when that changes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ellm.checkpoint import Checkpoint, open_checkpoint, packed_file
from ellm.checkpoint.names import find
from ellm.checkpoint.packed import open_packed
from ellm.pack import pack, stamps
from ellm.system.errors import InputError
from ellm.system.files import cache_folder
from ellm.system.memory import readable

Progress = Callable[[int, int], None]


def folder() -> Path:
    """Where they are. Raises InputError if there is no home folder."""
    return cache_folder() / "packed"


def open_cached(
    name: str | Path, *, dtype: str | None = None, expanded_prefill: bool = False, progress: Progress | None = None
) -> Checkpoint:
    """Open a model in its packed form, which is written now unless it is there and the model is what it was.

    Of processes that come at once, one packs and the others wait for it. Raises InputError if the model cannot be
    opened, or its packed form not be written.
    """
    found = find(str(name), bool(progress)).path
    if packed_file.is_packed(found):
        return open_packed(found)
    key = json.dumps([str(found.resolve()), dtype, expanded_prefill])
    path = folder() / f"{found.stem}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.ellm"
    with _alone(path):
        fresh = _fresh(path, found)
        if fresh is not None:
            return fresh
        with open_checkpoint(name, progress=progress) as checkpoint:
            pack(checkpoint, path, dtype=dtype, expanded_prefill=expanded_prefill, progress=progress)
    packed = open_packed(path)
    packed.notes.append(f"kept packed in {path}: {readable(path.stat().st_size)}")
    return packed


def _fresh(path: Path, found: Path) -> Checkpoint | None:
    """The packed form of a model, if it is of this version and of its files as they are."""
    with contextlib.suppress(InputError):
        checkpoint = open_packed(path)
        assert checkpoint.packed
        if checkpoint.packed.header.about["files"] == stamps(found):
            return checkpoint
    return None


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keeps other processes from packing to this file meanwhile. Raises InputError if the cache cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InputError(f"cannot keep {path.name} in {path.parent}: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
