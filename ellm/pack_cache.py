"""Packed models in the user's cache folder: one for each model and way to pack it, made anew when that changes.

Before one is written, those of models that are gone or have changed are removed and, until there is room, those that
were used longest ago. What is in use stays, as whoever has it may map it again: a lock on the file says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ellm.checkpoint import Checkpoint, open_checkpoint, packed_file
from ellm.checkpoint.names import find
from ellm.checkpoint.packed import open_packed
from ellm.pack import pack, stamps
from ellm.system.errors import InputError, tell
from ellm.system.files import cache_folder
from ellm.system.memory import readable

SPARE = 0.1  # of the file system: that part stays free, as far as other packed files can make room

_SUFFIX = ".ellm"

Progress = Callable[[int, int], None]


def folder() -> Path:
    """Where they are. Raises InputError if there is no home folder."""
    return cache_folder() / "packed"


def open_cached(
    name: str | Path, *, dtype: str | None = None, expanded_prefill: bool = False, progress: Progress | None = None
) -> Checkpoint:
    """Open a model in its packed form, which is written now unless it is there and the model is what it was.

    Of processes that come at once, one packs and the others wait for it. What is removed to make room is told on
    stderr. Raises InputError if the model cannot be opened, or its packed form not be written.
    """
    found = find(str(name), bool(progress)).path
    if packed_file.is_packed(found):
        return open_packed(found)
    key = json.dumps([str(found.resolve()), dtype, expanded_prefill])
    path = folder() / f"{found.stem}-{hashlib.sha256(key.encode()).hexdigest()[:12]}{_SUFFIX}"
    with _alone(path):
        if (fresh := _fresh(path, found)) is not None:
            return fresh
        with open_checkpoint(name, progress=progress) as checkpoint:
            checkpoint.source = str(found.absolute())  # it is looked for from other folders too
            _make_room(sum(size for _, size, _ in stamps(found)))
            pack(checkpoint, path, dtype=dtype, expanded_prefill=expanded_prefill, progress=progress)
        packed = _use(path)
    packed.notes.append(f"kept packed in {path}: {readable(path.stat().st_size)}")
    return packed


def _fresh(path: Path, found: Path) -> Checkpoint | None:
    """The packed form of a model, if it is of this version and of its files as they are."""
    with contextlib.suppress(InputError):
        packed = _use(path)
        if _said(packed)["files"] == stamps(found):
            return packed
    return None


def _said(packed: Checkpoint) -> dict[str, Any]:
    """What its header says of the model."""
    assert packed.packed
    return packed.packed.header.about


def _use(path: Path) -> Checkpoint:
    """Open a packed file, which stays as long as the checkpoint is there. Raises InputError as `open_packed` does."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # no such file; or no locks there, so that nothing is removed
            fcntl.flock(held.enter_context(path.open("rb")), fcntl.LOCK_SH)
            os.utime(path)
        checkpoint = open_packed(path)
        weakref.finalize(checkpoint, held.pop_all().close)
    return checkpoint


def _make_room(needed: int) -> None:
    """Remove what nobody will use again and, for so many bytes more, what was used longest ago."""
    files = sorted(folder().glob(f"*{_SUFFIX}"), key=_last_used)
    stale = [path for path in files if _is_stale(path)]
    for path in stale:
        _remove(path, "its model is gone or has changed")
    for path in files:
        disk = os.statvfs(folder())
        if disk.f_bavail * disk.f_frsize - needed >= SPARE * disk.f_blocks * disk.f_frsize:
            return
        if path not in stale:
            _remove(path, f"it was used longest ago, and {SPARE:.0%} of the disk are to stay free")


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process has removed it
        return 0.0


def _is_stale(path: Path) -> bool:
    """Whether the model that it was made of is not there as it was, or this ellm cannot read it."""
    try:
        about = _said(open_packed(path))
        return about["files"] != stamps(Path(about["source"]))
    except (InputError, OSError):
        return True


def _remove(path: Path, why: str) -> None:
    """Remove a packed file, unless it is in use."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        tell(f"removed {path}, {readable(os.fstat(file.fileno()).st_size)}: {why}")


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
