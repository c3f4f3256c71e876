"""The arguments of kernels and the structs of a step, as task.h and arguments.h lay them out.

Needs NumPy only. What else is known of a kernel is in records.py.

The limits probe: memory and multiplication limits are measured by tasks of the kernels `probe_read` and `probe_matmul`.
A program for them has one operator with one group on row block 0 (kind ROWS, `tiles` = the operator's `tasks`), run
with one row. `probe_read` needs tasks * bytes of packed weights: a task reads `bytes` bytes by the loop that
`streams`, `ahead` and `tiles` choose; READ_LOOPS lists the loops worth trying and the limit is the best of them.
`probe_matmul` does repeats * PROBE_FLOPS operations a task and reads no memory.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

TEXT = "".join(Path(__file__).with_name(name).read_text() for name in ("task.h", "arguments.h"))
SOURCE = re.sub(r"/\*.*?\*/", "", TEXT, flags=re.DOTALL).replace("\\\n", " ")
"""task.h and the arguments.h in it, without comments, a macro a line."""

_SIZES = {"int32_t": "i4", "int64_t": "i8", "uint64_t": "u8", "double": "f8", "float": "f4"}


def _define(name: str) -> int:
    found = re.search(rf"#define {name} +(\d+)", SOURCE)
    assert found, f"task.h lacks {name}"
    return int(found.group(1))


def structs() -> dict[str, list[tuple[str, str]]]:
    """Fields (type, declarator) of every struct in task.h."""
    macros = dict(re.findall(r"#define (\w+) +(.*;)", SOURCE))
    found = {}
    for name, body in re.findall(r"typedef struct ellm_(\w+) \{(.*?)\} ellm_\1;", SOURCE, re.DOTALL):
        for macro, text in macros.items():
            body = re.sub(rf"\b{macro}\b", text, body)
        found[name] = [tuple(line.strip().rsplit(None, 1)) for line in body.split(";") if line.strip()]
    return found


def _dtype(declared: list[tuple[str, str]]) -> np.dtype:
    names = [name.lstrip("*").split("[")[0] for _, name in declared]
    formats: list[Any] = ["u8" if "*" in kind + name else _SIZES[kind] for kind, name in declared]
    for i, (_, name) in enumerate(declared):
        if "[" in name:
            formats[i] = (formats[i], (_define(name.split("[")[1].rstrip("]")),))
    return np.dtype({"names": names, "formats": formats}, align=True)


TILE_N = _define("ELLM_TILE_N")
TILE_K = _define("ELLM_TILE_K")
TILE = TILE_N * TILE_K
SPLIT = _define("ELLM_SPLIT")
LEAF = _define("ELLM_LEAF")
SPAN = _define("ELLM_SPAN")
FOLD = _define("ELLM_FOLD")
ARGS_BYTES = _define("ELLM_ARGS")
WINDOWS = _define("ELLM_WINDOWS")
PROBE_FLOPS = _define("ELLM_PROBE_FLOPS")
EXPAND_BYTES = _define("ELLM_EXPAND")
EXPERT_ROWS = _define("ELLM_EXPERT_ROWS")
PIECE = _define("ELLM_PIECE")
INT16 = _define("ELLM_INT16")
INT8 = _define("ELLM_INT8")
CACHE_DIMS = _define("ELLM_CACHE_DIMS")

_STRUCTS = structs()
ATTEND_ITEM = _dtype(_STRUCTS.pop("attend_item"))
MERGE_ITEM = _dtype(_STRUCTS.pop("merge_item"))
TOKEN_NUMBER = _dtype(_STRUCTS.pop("token_number"))
SAMPLING = _dtype(_STRUCTS.pop("sampling"))
STEP = _dtype(_STRUCTS.pop("step"))
TASK = _dtype(_STRUCTS.pop("task"))

FIELDS: dict[str, dict[str, str]] = {
    kernel: {name: kind.removeprefix("ellm_") for kind, name in declared} for kernel, declared in _STRUCTS.items()
}
DTYPES: dict[str, np.dtype] = {
    kernel: np.dtype([(name, "f8" if kind == "real" else "i8") for name, kind in fields.items()])
    for kernel, fields in FIELDS.items()
}

READ_LOOPS: tuple[dict[str, int], ...] = (
    {"streams": 1, "ahead": 0, "tiles": 0},
    {"streams": 1, "ahead": 4096, "tiles": 0},
    {"streams": 4, "ahead": 0, "tiles": 0},
    {"streams": 4, "ahead": 2048, "tiles": 0},
    {"streams": 8, "ahead": 0, "tiles": 0},
    {"streams": 8, "ahead": 2048, "tiles": 0},
    {"streams": 4, "ahead": 2048, "tiles": 1},
    {"streams": 8, "ahead": 2048, "tiles": 1},
)
"""Arguments of `probe_read`; `tiles` = 1 reads by AMX tile loads and is the same as 0 on the other ISAs."""


def pack(kernel: str, **values: Any) -> np.ndarray:
    """The arguments of an operator as uint8 [ARGS_BYTES]. Raises TypeError unless exactly its fields are given."""
    dtype = _known(kernel)
    if set(values) != set(dtype.fields or ()):
        missing, extra = set(FIELDS[kernel]) - set(values), set(values) - set(FIELDS[kernel])
        raise TypeError(f"{kernel}: missing fields {sorted(missing)}, unknown fields {sorted(extra)}")
    out = np.zeros(ARGS_BYTES, np.uint8)
    out[: dtype.itemsize] = np.array(tuple(values[name] for name in FIELDS[kernel]), dtype).reshape(1).view(np.uint8)
    return out


def unpack(kernel: str, data: Any) -> dict[str, Any]:
    """The fields of arguments that `pack` wrote, as int and float."""
    dtype = _known(kernel)
    record = np.frombuffer(bytes(data)[: dtype.itemsize], dtype)[0]
    return {name: record[name].item() for name in FIELDS[kernel]}


def weight_fields(kernel: str) -> dict[str, int]:
    """Byte offset of each weight address in the arguments: what is relocated when weights get their base."""
    dtype = _known(kernel)
    return {name: dtype.fields[name][1] for name, kind in FIELDS[kernel].items() if kind == "weight"}  # type: ignore[index]


def _known(kernel: str) -> np.dtype:
    if kernel not in DTYPES:
        raise TypeError(f"no kernel is called {kernel!r}; there are {', '.join(sorted(DTYPES))}")
    return DTYPES[kernel]
