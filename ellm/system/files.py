"""Files that are written whole or not at all, whether that will work, and the folder of what can be made again."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ellm.system.errors import InputError

_PART = ".ellm-part-"  # how the names of files that are being written begin
_FRESH = 60  # seconds in which a part that nobody has locked may have been made just now


def check_writable(path: str) -> Path:
    """The file that this names. Raises InputError if it cannot be written; it is left as it is."""
    try:
        file = Path(path).expanduser()
        mode = _mode(file)
        if not path:
            raise FileNotFoundError(2, "its name is empty")
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(21, "it is a folder")
        if mode and not os.access(file, os.W_OK):
            raise PermissionError(13, "Permission denied")
        if not _is_special(mode):
            with tempfile.TemporaryFile(dir=file.resolve().parent):
                pass
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder for ~
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot write {path or repr(path)}: {reason}") from error
    return file


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there with all of its content or, if this is interrupted, not at all.

    Raises InputError if it cannot be written.
    """
    with replacing(path) as part:
        part.write_bytes(content)


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file as `write_whole` does, of parts that are not in memory all at once."""
    with replacing(path) as part, part.open("wb") as file:
        file.writelines(parts)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, which then takes the place of the one that is meant; a device or a pipe is written to itself.

    Beside it, those that killed processes left half written are removed.
    """
    try:
        if _is_special(_mode(path)):
            yield path
            return
        meant = path.resolve()  # a link stays a link
        _sweep(meant.parent)
        part = meant.with_name(f"{_PART}{secrets.token_hex(8)}")
        try:
            with part.open("xb") as held:
                with suppress(OSError):  # a file system without locks: nothing is swept there either
                    fcntl.flock(held, fcntl.LOCK_EX)
                yield part
                part.replace(meant)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def _sweep(folder: Path) -> None:
    """Remove parts that nobody writes any more: whoever does holds a lock, shortly after it has made the file."""
    for part in folder.glob(f"{_PART}*"):
        with suppress(OSError), part.open("rb") as left:
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(left.fileno()).st_mtime > _FRESH:
                part.unlink()


def _is_special(mode: int) -> bool:
    return bool(mode) and not stat.S_ISREG(mode)


def _mode(file: Path) -> int:
    """Its type and permissions; 0 if there is no such file."""
    try:
        return file.stat().st_mode
    except FileNotFoundError:
        return 0


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/ellm (~/.cache/ellm), which need not be there. Raises InputError if there is no home folder."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "ellm")
    except RuntimeError as error:
        raise InputError(f"no home folder to keep a model in: {error}; set XDG_CACHE_HOME") from error
