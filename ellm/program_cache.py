"""Programs of packed models, kept from one start to the next: to compile one takes longer than all else of a start.

They are in the user's own cache folder and not in the packed file, since a program says at which addresses kernels read
and write: one from elsewhere could make them do anything.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ellm.scheduler import saved
from ellm.scheduler.program import Program
from ellm.system.errors import InputError
from ellm.system.files import cache_folder, replacing

MOST = 64  # files that are kept, of half a megabyte for a small model; those that were used last
_DECIDE = ("dsl/*.py", "models/*.py", "kernels/*.py", "kernels/*.h", "scheduler/*.py", "compiled.py")


def load(count: int, *key: object) -> list[Program] | None:
    """The `count` programs that were kept under this key by this build of ellm, or None."""
    try:
        paths = [_path(number, key) for number in range(count)]
        programs = [saved.load(path) for path in paths]
        for path in paths:
            os.utime(path)
    except (InputError, OSError, ValueError):  # none there, or not readable: they are compiled anew
        return None
    return programs


def store(programs: Sequence[Program], *key: object) -> None:
    """Keep programs, unless there is no place for them."""
    with contextlib.suppress(InputError, OSError):
        for number, program in enumerate(programs):
            path = _path(number, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as part:
                saved.save(program, part)
        found = sorted(path.parent.iterdir(), key=lambda file: file.stat().st_mtime)
        for old in found[:-MOST]:
            old.unlink()


def _path(number: int, key: tuple[object, ...]) -> Path:
    name = hashlib.sha256(json.dumps([_build(), *key]).encode()).hexdigest()
    return cache_folder() / "programs" / f"{name[:32]}-{number}.npz"


@functools.cache
def _build() -> str:
    """SHA-256 of what decides on programs and on what they mean to kernels, in hex digits."""
    package, found = Path(__file__).parent, hashlib.sha256()
    for pattern in _DECIDE:
        for path in sorted(package.glob(pattern)):
            content = path.read_bytes()
            found.update(b"%d %s " % (len(content), path.name.encode()) + content)
    return found.hexdigest()
