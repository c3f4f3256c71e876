"""Writes what C and Cython need of facts that stand elsewhere; setup.py runs it before it builds.

formats.h    the records of formats.py
task.pxd     task.h for Cython
kernels.pxi  every kernel's body, the table of their addresses, and the sizes of the structs, for table.pxi
"""

from __future__ import annotations

import re
from pathlib import Path

from ellm.kernels.contract import FIELDS, SOURCE, structs
from ellm.kernels.formats import BLOCK_TILES, FORMATS, PLAIN

_FOLDER = Path(__file__).parent


def write() -> None:
    """Write the files that are not as they should be."""
    for name, text in (("formats.h", formats_header()), ("task.pxd", task_declarations()), ("kernels.pxi", kernels())):
        file = _FOLDER / name
        if not file.exists() or file.read_text() != text:
            file.write_text(text)


def formats_header() -> str:
    """The formats as constants, and a table of what is in their column tiles."""
    lines = ["/* Written by generate.py from formats.py. */", "#ifndef ELLM_FORMATS_H", "#define ELLM_FORMATS_H"]
    lines += ["#include <stdint.h>", "", f"#define ELLM_BLOCK {BLOCK_TILES} /* k tiles behind a header of scales */"]
    for format in FORMATS.values():
        lines.append(f"#define ELLM_{format.name.upper()} {format.number}")
        if format.header_bytes:
            lines.append(f"#define ELLM_{format.name.upper()}_HEADER {format.header_bytes}")
    expanded = " ".join(
        f"X({format.name.upper()}, {format.name})" for format in FORMATS.values() if format is not PLAIN
    )
    lines += ["", "/* Every format that expand.h turns into bf16. */", f"#define ELLM_EXPANDED(X) {expanded}", ""]
    lines += ["typedef struct ellm_format {"]
    lines += ["    int64_t tile;    /* bytes of a tile of one column tile */"]
    lines += ["    int64_t header;  /* bytes before every ELLM_BLOCK tiles */"]
    lines += ["    int64_t terms;   /* bf16 numbers that a weight is the sum of */"]
    lines += ["} ellm_format;", "", f"static const ellm_format ELLM_FORMATS[{len(FORMATS)}] = {{"]
    lines += [
        f"    {{{one.tile_bytes}, {one.header_bytes}, {one.terms}}}, /* {one.name} */" for one in FORMATS.values()
    ]
    return "\n".join([*lines, "};", "", "#endif", ""])


def task_declarations() -> str:
    """task.h in Cython's words."""
    lines = ['"""task.h for Cython, written by generate.py: the ABI between scheduler and kernels."""', ""]
    lines += ["from libc.stdint cimport int32_t, int64_t, uint16_t, uint64_t", ""]
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
