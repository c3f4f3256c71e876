"""JSON files of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ellm.kernels.errors import InputError
from ellm.messages import one_line


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises InputError if the file cannot be read or holds anything else."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds {type(value).__name__}, must be an object")
    return value


def read_json_if_any(path: Path) -> dict[str, Any]:
    """`read_json`, or an empty dict if there is no such file."""
    return read_json(path) if path.exists() else {}
