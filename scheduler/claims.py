"""What the ellm processes of one user tell each other: which cores their workers are on.

A claim is a file that names cores. The process that made it holds a lock on it, which the kernel drops when the process
ends, whatever ends it; a file without a lock counts for nothing and is removed by whoever comes next.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ellm.scheduler.topology import core_list, core_ranges

DOOR = "door"  # the file whose lock is held by whoever looks at the claims to add one
DOOR_SECONDS = 1.0  # it is held for microseconds, so this is for a process that was stopped then
LONGEST = 1 << 16  # bytes of a claim that are read


@dataclass(frozen=True)
class Claimed:
    """What another pool of workers claims, here or in another process."""

    pid: int
    cores: frozenset[int]


class Claim:
    """Cores that this process claims until `close`, or until it ends. Without a `folder` nobody is told."""

    def __init__(self, folder: Path | None, cores: list[int]):
        self._release: weakref.finalize | None = None
        with contextlib.suppress(OSError):
            if folder is not None:
                file, path = tempfile.mkstemp(dir=folder, prefix=f"{os.getpid()}-")
                self._release = weakref.finalize(self, _release, file, path, os.getpid())
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.write(file, core_ranges(cores).encode())

    def close(self) -> None:
        """Give the cores up."""
        if self._release is not None:
            self._release()


def _release(file: int, path: str, process: int) -> None:
    if process == os.getpid():  # a fork has the file too, but no workers
        with contextlib.suppress(OSError):
            os.unlink(path)
    os.close(file)


def folder() -> Path | None:
    """Where this user's claims are. None: there is no such place, or it is not this user's."""
    user = os.getuid()
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{user}")
    place = runtime / "ellm" if runtime.is_dir() else Path(f"/dev/shm/ellm-{user}")
    with contextlib.suppress(OSError):
        place.mkdir(mode=0o700, exist_ok=True)
        found = place.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == user:
            return place
    return None


@contextlib.contextmanager
def door(place: Path | None) -> Iterator[None]:
    """Keeps others from claiming meanwhile, so that two that come at once do not choose the same cores."""
    if place is None:
        yield
        return
    try:
        file = os.open(place / DOOR, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    try:
        end = time.monotonic() + DOOR_SECONDS
        while not _locked(file) and time.monotonic() < end:
            time.sleep(0.001)
        yield
    finally:
        os.close(file)


def claimed(place: Path | None) -> list[Claimed]:
    """The claims of all pools that there are. Only behind the door."""
    found = []
    with contextlib.suppress(OSError):
        for path in sorted(place.iterdir()) if place is not None else ():
            pid = path.name.split("-")[0]
            if pid.isdecimal():
                with contextlib.suppress(OSError, ValueError):
                    found += [Claimed(int(pid), cores) for cores in _read(path)]
    return found


def _read(path: Path) -> list[frozenset[int]]:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if _locked(file):
            path.unlink()
            return []
        return [frozenset(core_list(os.read(file, LONGEST).decode()))]
    finally:
        os.close(file)


def _locked(file: int) -> bool:
    """Whether this locks it now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
