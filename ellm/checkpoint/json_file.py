"""JSON files of a checkpoint, and what makes any of its small files safe to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ellm.system.errors import InputError, one_line

LARGEST = 64 << 20  # bytes; the largest tokenizers and indices take some 30 MB
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def check_file(path: Path, largest: int | None = LARGEST) -> None:
    """Raise InputError unless this is a regular file, and a small one: a pipe may never end.

    So it does for a file that is empty, or only says where git-lfs keeps the real one.
    """
    if not path.is_file():
        raise InputError(f"{path}: is not a regular file")
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"{path}: is empty")
    if largest is not None and size > largest:
        raise InputError(f"{path}: has {size} bytes, at most {largest} are plausible")
    try:
        with path.open("rb") as file:
            begin = file.read(len(_LFS_POINTER))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if begin == _LFS_POINTER:
        raise InputError(f"{path}: is a git-lfs pointer, not the file: run `git lfs pull` in its folder")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises InputError if the file cannot be read or holds anything else."""
    return _read(path, dict, "an object")


def read_json_list(path: Path) -> list[Any]:
    """The list in a JSON file. Raises as `read_json` does."""
    return _read(path, list, "a list")


def _read(path: Path, kind: type, words: str) -> Any:
    check_file(path)
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {one_line(error)}") from error
    if not isinstance(value, kind):
        raise InputError(f"{path}: holds {type(value).__name__}, must be {words}")
    return value


def read_json_if_any(path: Path) -> dict[str, Any]:
    """`read_json`, or an empty dict if there is no such file."""
    return read_json(path) if path.exists() else {}
