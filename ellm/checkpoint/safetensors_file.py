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
