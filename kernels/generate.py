"""Writes what C and Cython need of facts that stand elsewhere; setup.py runs it before it builds.

formats.h    the records of formats.py
task.pxd     task.h for Cython
kernels.pxi  every kernel's body, the table of their addresses, and the sizes of the structs, for table.pxi
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ellm.kernels.contract import FIELDS, SOURCE, structs
from ellm.kernels.format import Format
from ellm.kernels.formats import NUMBERED, PLAIN

_FOLDER = Path(__file__).parent
_PARTS = {name: name for name in ("super_scale", "super_minimum", "scale", "minimum")} | {"zero": "zeros"}
"""Parts of a header, and what C calls where they are."""


def write() -> None:
    """Write the files that are not as they should be."""
    for name, text in (("formats.h", formats_header()), ("task.pxd", task_declarations()), ("kernels.pxi", kernels())):
        file = _FOLDER / name
        if not file.exists() or file.read_text() != text:
            file.write_text(text)


def formats_header() -> str:
    """The formats as constants, and a table of what is in their column tiles."""
    lines = ["/* Written by generate.py from formats.py. */", "#ifndef ELLM_FORMATS_H", "#define ELLM_FORMATS_H"]
    lines += ["#include <stdint.h>", ""]
    for format in NUMBERED:
        lines.append(f"#define ELLM_{format.name.upper()} {format.number}")
        if format.header_bytes:
            lines.append(f"#define ELLM_{format.name.upper()}_HEADER {format.header_bytes}")
    lines += ["", "/* Formats that expand.h turns into bf16, each by code of its own; and those of expand_blocks.h. */"]
    lines += [
        f"#define ELLM_EXPANDED(X) {_listed(lambda format: not format.blocked)}",
        f"#define ELLM_BLOCKED(X) {_listed(lambda format: format.blocked)}",
        "",
        "/* Formats whose codes integer.h multiplies. */",
        f"#define ELLM_WHOLE(X) {_listed(lambda format: format.whole)}",
        "",
    ]
    lines += ["typedef struct ellm_format {"]
    lines += ["    int64_t tile;   /* bytes of a tile of one column tile */"]
    lines += ["    int64_t header; /* bytes before the tiles of a block */"]
    lines += ["    int64_t block;  /* tiles of a block */"]
    lines += ["    int64_t terms;  /* bf16 numbers that a weight is the sum of */"]
    lines += ["    int64_t bits;   /* of a code */"]
    lines += ["    int64_t group;  /* k that share a scale */"]
    lines += ["    int64_t nested; /* scales and minimums are int8, times an f16 of the block */"]
    lines += ["    int64_t bf16;   /* scales are bf16; else, of blocks, f16 */"]
    lines += [f"    int64_t {', '.join(_PARTS.values())}; /* where they are in a header; -1: nowhere */"]
    lines += ["    int64_t powers; /* scales are E8M0 */"]
    lines += ["    float unit;     /* what codes are worth whole numbers of */"]
    lines += ["    int64_t most_sum; /* of activations of 16 bits with one scale, without their signs */"]
    lines += ["    int64_t zero;   /* the code that is worth nothing, if each is worth one more than the one before */"]
    lines += ["    int64_t table;  /* codes of 4 bits are worth any numbers: */"]
    lines += ["    int8_t worth[16];"]
    lines += ["} ellm_format;", "", f"static const ellm_format ELLM_FORMATS[{len(NUMBERED)}] = {{"]
    lines += [f"    {{{_described(format)}}}, /* {format.name} */" for format in NUMBERED]
    return "\n".join([*lines, "};", "", "#endif", ""])


def _listed(wanted: Callable[[Format], bool]) -> str:
    names = [format.name for format in NUMBERED if format is not PLAIN and wanted(format)]
    return " ".join(f"X({name.upper()}, {name})" for name in names)


def _described(format: Format) -> str:
    """The initialiser of a format's `ellm_format`."""
    numbers: list[float] = [format.tile_bytes, format.header_bytes, format.block_tiles, format.terms, format.bits]
    numbers += [format.k_per_scale, int(format.nested), int(format.scale == np.uint16)]
    numbers += [format.parts[name].offset if name in format.parts else -1 for name in _PARTS]
    numbers += [int(format.scale == np.uint8), format.unit, format.most_sum if format.whole else 0]
    worth, table = format.worth, [0]
    if (np.diff(worth) != 1).any():
        numbers, table = [*numbers, 0, 1], worth.tolist()
    else:
        numbers += [-int(worth[0]), 0]
    return f"{', '.join(map(str, numbers))}, {{{', '.join(map(str, table))}}}"


def task_declarations() -> str:
    """task.h in Cython's words."""
    lines = ['"""task.h for Cython, written by generate.py: the ABI between scheduler and kernels."""', ""]
    lines += ["from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t", ""]
    lines += ['cdef extern from "task.h" nogil:', "    enum:"]
    lines += [f"        {name}" for name in re.findall(r"#define (ELLM_\w+) +[\d(]", formats_header() + SOURCE)]
    lines.append("")
    lines += [f"    ctypedef {kind}" for kind in re.findall(r"typedef ([^{}();]+ \*?ellm_\w+);", SOURCE)]
    for name, fields in structs().items():
        lines += ["", f"    ctypedef struct ellm_{name}:"]
        lines += [f"        {kind} {declarator}".replace(" *const *", " **") for kind, declarator in fields]
    functions = re.findall(r"typedef (\w+ \(\*\w+\)\(.*\));", SOURCE)
    return "\n".join([*lines, "", *(f"    ctypedef {function} noexcept nogil" for function in functions), ""])


def kernels() -> str:
    """What table.pxi includes: bodies, ADDRESSES and SIZES."""
    lines = ["# Written by generate.py from the structs of task.h.", ""]
    lines += [f'include "{kernel}.pxi"' for kernel in FIELDS]
    lines += ["", "ADDRESSES = {", *(f'    "{kernel}": <uintptr_t> &{kernel},' for kernel in FIELDS), "}"]
    lines += ["", "SIZES = {", *(f'    "{name}": sizeof(ellm_{name}),' for name in structs()), "}", ""]
    return "\n".join(lines)
