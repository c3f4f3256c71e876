"""The headers of safetensors files: the package checks them, and we read where each tensor's bytes lie.

The package hands out whole tensors and has no bf16 for NumPy, so the offsets are all we take.
Format: 8 bytes little-endian length of the header, the header as JSON, then the tensors' bytes.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ellm.checkpoint.json_file import check_file
from ellm.checkpoint.tensors import TensorInfo
from ellm.system.errors import InputError, one_line

_LARGEST_HEADER = 100_000_000  # bytes, that the package takes


def read_tensors(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file. Raises InputError if its header is malformed or does not fit the file."""
    check_file(path, largest=None)
    try:
        with open(path, "rb") as file:
            with safe_open(path, framework="numpy"):  # checks dtypes, shapes, offsets and the file's size
                pass
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
    except SafetensorError as error:
        _refuse_truncated(path)
        raise InputError(f"{path}: broken safetensors header: {one_line(error)}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {one_line(error)}") from error
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        shape = tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        rows = shape[0] if shape else 1
        row_bytes = (end - begin) // rows if math.prod(shape) else 0
        tensors[name] = TensorInfo(name, name, shape, entry["dtype"], path, 8 + size + begin, row_bytes)
    return tensors


def _refuse_truncated(path: Path) -> None:
    """Raise InputError if a file that the package refuses only ends too early, as an interrupted download does."""
    found = path.stat().st_size
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if found < 8 or size > _LARGEST_HEADER:
            return
        header = file.read(size)
    needed = 8 + size
    if found >= needed:
        try:
            entries = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
            needed += max((int(entry["data_offsets"][1]) for entry in entries), default=0)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError):
            return
    if found < needed:
        raise InputError(f"{path}: is truncated: it has {found} bytes, its header needs {needed}; download it again")
