"""Files that a command writes at its end: whether that will work is said at its begin."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ellm.kernels.errors import InputError


def check_writable(path: str) -> Path:
    """The path. Raises InputError if no file can be written there; an existing one is left as it is."""
    file = Path(path).expanduser()
    try:
        if file.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    return file


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there with all of its content or, if this is interrupted, not at all.

    Raises InputError if it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
