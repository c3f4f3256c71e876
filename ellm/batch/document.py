"""Documents that requests name."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ellm.system.errors import InputError


def read_document(path: Path, most: int) -> str:
    """The text of a file of at most so many bytes. Raises InputError if it is larger, unreadable, or not UTF-8."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would never end
        with os.fdopen(number, "rb") as file:
            status = os.fstat(number)
            content = file.read(most + 1) if stat.S_ISREG(status.st_mode) else None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot be read: {reason}") from error
    if content is None:
        raise InputError("cannot be read: Not a file")
    if len(content) > most:
        raise InputError(f"has {max(status.st_size, len(content))} bytes, {most} are the most")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 text: {error.reason} at byte {error.start}") from error
