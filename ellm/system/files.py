"""Files that are written whole or not at all, whether that will work, and the folder of what can be made again."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ellm.system.errors import InputError


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
    """A file to write, which then takes the place of the one that is meant; a device or a pipe is written to itself."""
    special = _is_special(_mode(path))
    meant = path if special else path.resolve()  # a link stays a link
    part = meant if special else meant.with_name(f".ellm-{os.getpid()}")
    try:
        yield part
        if not special:
            part.replace(meant)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    finally:
        if not special:
            part.unlink(missing_ok=True)


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
