"""What the compiler needs to know about a kernel: its arguments, tasks, scratch memory and cost.

The layout of the arguments is read from arguments.h, the only place where it is written. Needs NumPy only.

The limits probe: memory and multiplication limits are measured by tasks of the kernels `probe_read` and `probe_matmul`.
A program for them has one operator with one group on row block 0 (kind ROWS, `tiles` = the operator's `tasks`), run
with one row. `probe_read` needs tasks * bytes of packed weights: a task reads `bytes` bytes by the loop that
`streams`, `ahead` and `tiles` choose; READ_LOOPS lists the loops worth trying and the limit is the best of them.
`probe_matmul` does repeats * PROBE_FLOPS operations a task and reads no memory. `cost` gives both for all tasks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

TEXT = "".join(Path(__file__).with_name(name).read_text() for name in ("task.h", "arguments.h"))
_SOURCE = re.sub(r"/\*.*?\*/", "", TEXT, flags=re.DOTALL).replace("\\\n", " ")
_SIZES = {"int32_t": "i4", "int64_t": "i8", "uint64_t": "u8", "double": "f8"}


def _define(name: str) -> int:
    found = re.search(rf"#define {name} +(\d+)", _SOURCE)
    assert found, f"task.h lacks {name}"
    return int(found.group(1))


def _structs() -> dict[str, list[tuple[str, str]]]:
    """Fields (type, declarator) of every struct in task.h."""
    macros = dict(re.findall(r"#define (\w+) +(.*;)", _SOURCE))
    found = {}
    for name, body in re.findall(r"typedef struct ellm_(\w+) \{(.*?)\} ellm_\1;", _SOURCE, re.DOTALL):
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


TILE = _define("ELLM_TILE")
SPLIT = _define("ELLM_SPLIT")
FOLD = _define("ELLM_FOLD")
ARGS_BYTES = _define("ELLM_ARGS")
WINDOWS = _define("ELLM_WINDOWS")
PROBE_FLOPS = _define("ELLM_PROBE_FLOPS")
EXPAND_BYTES = _define("ELLM_EXPAND")

_STRUCTS = _structs()
ATTEND_ITEM = _dtype(_STRUCTS.pop("attend_item"))
MERGE_ITEM = _dtype(_STRUCTS.pop("merge_item"))
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

FORMATS: dict[str, int] = {name: _define(f"ELLM_{name.upper()}") for name in ("bf16", "f16", "fp8", "mxfp4")}
"""Formats of a packed weight, by name."""

_MATMULS = ("linear", "logits", "gate_up", "qkv", "head_linear", "expert_gate_up", "expert_down")
_HEADER = 64
_K_BLOCK = 4  # k tiles of a block of FP8 or MXFP4
_BLOCK_BYTES = {FORMATS["fp8"]: 64 + _K_BLOCK * TILE, FORMATS["mxfp4"]: 64 + _K_BLOCK * TILE // 2}


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


def column_bytes(format: int, k_tiles: int) -> int:
    """Bytes of one column tile of a packed weight, 64-byte aligned."""
    if format in _BLOCK_BYTES:
        return -(-k_tiles // _K_BLOCK) * _BLOCK_BYTES[format]
    return 2 * TILE * k_tiles


def tasks(kernel: str, args: Mapping[str, Any]) -> int:
    """Tasks of one operator on one row block; for attend and merge per item, for expand_latent per split, for sample
    per logit row, for the experts' kernels per row tile of one expert."""
    _known(kernel)
    if kernel in _MATMULS:
        return int(_banks(kernel, args) * -(-args["n_tiles"] // args["task_tiles"]))
    if kernel == "combine":
        return -(-args["n"] // args["task_columns"])
    if kernel in ("attend", "merge"):
        return int(args["kv_heads"]) * -(-args["heads"] // args["kv_heads"] // FOLD)
    if kernel == "append":
        return int(args["kv_heads"])
    if kernel == "expand_latent":
        return int(args["heads"])
    if kernel in ("probe_read", "probe_matmul"):
        return int(args["tasks"])
    return 1


def scratch_bytes(kernel: str, args: Mapping[str, Any], row_block: int) -> int:
    """Bytes of a worker's scratch that a task of this operator uses, header included."""
    _known(kernel)
    needed = _SCRATCH.get(kernel)
    return _HEADER + (needed(args, row_block) if needed else 0)


def cost(kernel: str, args: Mapping[str, Any], rows: int, keys: int) -> tuple[int, int]:
    """Floating-point operations and bytes of weights (or keys and values; of expand_latent those that it writes) of one
    operator over all of its tasks.

    `rows` is the number of rows (of the experts' kernels: of one expert), `keys` the number of keys that each of them
    attends to.
    """
    _known(kernel)
    if kernel in _MATMULS:
        columns = _banks(kernel, args) * args["n_tiles"]
        return 2 * rows * TILE * columns * args["k_tiles"], columns * column_bytes(args["format"], args["k_tiles"])
    if kernel == "attend":
        stored = args["head_dim"] + (0 if args["values_in_keys"] else args["value_dim"])
        flops = 2 * rows * keys * args["heads"] * (args["head_dim"] + args["value_dim"])
        return flops, 2 * keys * args["kv_heads"] * stored
    if kernel == "expand_latent":
        dims = args["key_dim"] + args["value_dim"]
        return 2 * keys * args["heads"] * args["latent"] * dims, 2 * keys * args["heads"] * (dims + args["rotary"])
    if kernel == "probe_read":
        return 0, args["tasks"] * args["bytes"]
    if kernel == "probe_matmul":
        return args["tasks"] * args["repeats"] * PROBE_FLOPS, 0
    return 0, 0


def _known(kernel: str) -> np.dtype:
    if kernel not in DTYPES:
        raise TypeError(f"no kernel is called {kernel!r}; there are {', '.join(sorted(DTYPES))}")
    return DTYPES[kernel]


def _banks(kernel: str, args: Mapping[str, Any]) -> int:
    """Packed weights that the tasks of an operator share out between them."""
    return int(args["heads"]) if kernel == "head_linear" else 1


def _product_scratch(args: Mapping[str, Any], row_block: int) -> int:
    """The task's f32 product, and bf16 tiles that a weight in another format is expanded to."""
    expanded = 0 if args["format"] == FORMATS["bf16"] else EXPAND_BYTES
    return row_block * 16 * args["task_tiles"] * 4 + expanded


def _panel_scratch(args: Mapping[str, Any], row_block: int) -> int:
    """The panel bf16(norm(x)), its rows an odd number of cache lines apart, and the product."""
    return row_block * (args["k_tiles"] | 1) * 64 + _product_scratch(args, row_block)


def _matmul_scratch(args: Mapping[str, Any], row_block: int) -> int:
    """As _panel_scratch, but bf16 rows are used where they are."""
    return (_product_scratch if args["x_bf16"] else _panel_scratch)(args, row_block)


def _expand_latent_scratch(args: Mapping[str, Any], row_block: int) -> int:
    """The panel of a split's cached keys, the product of 128 positions and expanded weights."""
    columns = _up(max(args["key_dim"] + args["rotary"], args["value_dim"]), 16)
    formats = (args["to_keys_format"], args["to_values_format"])
    expanded = 0 if set(formats) == {FORMATS["bf16"]} else EXPAND_BYTES
    return SPLIT * (_up(args["latent"] + args["rotary"], 32) // 32 | 1) * 64 + 128 * columns * 4 + expanded


def _attend_scratch(args: Mapping[str, Any], row_block: int) -> int:
    """The struct Fold of attend.pxi: per folded row scores and p, two numerators, the query and four scalars; and four
    column tiles of values that are in keys."""
    q_stride, s_stride = (32 * (-(-n // 32) | 1) for n in (args["head_dim"], SPLIT))
    tiles = 4 * SPLIT // 32 if args["values_in_keys"] else 0
    return FOLD * (6 * s_stride + 8 * _up(args["value_dim"], 16) + 2 * q_stride + 16) + 2 * TILE * tiles


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


_SCRATCH: dict[str, Callable[[Mapping[str, Any], int], int]] = {
    **dict.fromkeys(("linear", "logits", "gate_up", "qkv"), _matmul_scratch),
    **dict.fromkeys(("head_linear", "expert_gate_up"), _panel_scratch),
    "expert_down": _product_scratch,
    "expand_latent": _expand_latent_scratch,
    "attend": _attend_scratch,
    "merge": lambda args, row_block: 4 * args["value_dim"],
    "route": lambda args, row_block: 8 * args["experts"] + 8 * args["groups"],  # scores, choices; groups: score, number
    "sample": lambda args, row_block: 12 * args["vocab"],  # penalised logits, weights and a heap of tokens
    "probe_matmul": lambda args, row_block: 4096,
    "probe_read": lambda args, row_block: 8,
}
