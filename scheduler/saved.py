"""A Program in a file: its arrays, and as JSON all else that it says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from ellm.kernels.contract import ARGS_BYTES
from ellm.scheduler import archive, plain
from ellm.scheduler.program import EVENT, GROUP, WAKE, Lists, Program

_INT32, _UINT8 = np.dtype(np.int32), np.dtype(np.uint8)
_ARRAYS = {  # dtype and dimensions
    **{"args": (_UINT8, 2), "op_kernel": (_INT32, 1), "relocations": (_INT32, 2), "roots": (_INT32, 1)},
    **{"groups": (GROUP, 1), "events": (EVENT, 1), "wakes": (WAKE, 1), "json": (_UINT8, 1)},
    **{f"{name}.{part}": (_INT32, 1) for name in ("signals", "publishes", "triggers") for part in ("begin", "items")},
}


def save(program: Program, path: str | Path) -> None:
    """Write a program to one .npz file. Raises OSError."""
    arrays: dict[str, np.ndarray] = {}
    scalars: dict[str, Any] = {}
    for item in fields(program):
        value = getattr(program, item.name)
        if isinstance(value, Lists):
            arrays[item.name + ".begin"], arrays[item.name + ".items"] = value.begin, value.items
        elif isinstance(value, np.ndarray):
            arrays[item.name] = value
        else:
            scalars[item.name] = value
    arrays["json"] = np.frombuffer(json.dumps(scalars, default=vars).encode(), np.uint8)
    archive.write(path, arrays)


def load(path: str | Path) -> Program:
    """Read a program written by `save`. Raises ValueError if the file is not one, or not as it was written."""
    try:
        arrays = archive.read(path)
        _check(arrays)
        said, types = json.loads(arrays["json"].tobytes()), get_type_hints(Program)
        if not isinstance(said, dict) or said.keys() - types.keys():
            raise ValueError("it says something else than this version does")
        values = {name: plain.read(types[name], value, name) for name, value in said.items()}
        for name, kind in types.items():
            if kind is Lists:
                values[name] = Lists(arrays[name + ".begin"], arrays[name + ".items"])
            elif kind is np.ndarray:
                values[name] = arrays[name]
        program = Program(**values)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a saved program: {error}") from error
    ops = len(program.op_names)
    relocations = len(program.relocations), 2
    for name, expected in {"args": (ops, ARGS_BYTES), "op_kernel": (ops,), "relocations": relocations}.items():
        shape = getattr(program, name).shape
        if shape != expected:
            raise ValueError(f"{path}: {name} are {shape}, this build needs {expected}")
    return program


def _check(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless these are the arrays of a program."""
    for words, names in (("lacks", _ARRAYS.keys() - arrays.keys()), ("has an unknown", arrays.keys() - _ARRAYS.keys())):
        if names:
            raise ValueError(f"it {words} {', '.join(sorted(names))}")
    for name, (dtype, dimensions) in _ARRAYS.items():
        array = arrays[name]
        if (array.dtype, array.ndim) != (dtype, dimensions):
            raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, must be {dtype} of {dimensions} dimensions")
