"""All that is known of a program, as plain data: what --json prints and the page shows."""

from __future__ import annotations

import linecache
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ellm import __version__
from ellm.inspection.contracts import contracts
from ellm.inspection.layers import repeats
from ellm.inspection.steps import Step
from ellm.kernels import contract
from ellm.kernels.formats import NUMBERED
from ellm.kernels.records import families
from ellm.scheduler.program import Kind, Lists, Program

_SIZES = ("row_block", "blocks", "chunk", "least_rows", "context", "vocab", "windows", "partials", "partial_floats")
_BYTES = ("weights_bytes", "arena_bytes", "section_bytes", "shared_bytes", "scratch_bytes", "range_bytes")


def record(program: Program, name: str, cores: list[int]) -> dict[str, Any]:
    """Operators, kernels, layers, memory and the task graph of a program for workers on these cores."""
    operators = program.operators
    used = sorted({operator.kernel for operator in operators})
    return {
        "name": name,
        "ellm": __version__,
        "cores": cores,
        "program": {key: getattr(program, key) for key in _SIZES + _BYTES},
        "token_bytes": program.token_bytes,
        "caches": [{"caches": count, **asdict(kind)} for kind, count in program.cache_kinds.items()],
        "weight_bytes": program.weight_bytes,
        "families": families(),
        "kernels": {kernel: asdict(contracts()[kernel]) for kernel in used},
        "layers": [asdict(repeat) for repeat in repeats(program)],
        "operators": [_operator(program, number) for number in range(len(operators))],
        "plan": asdict(program.plan),
        "tasks": task_graph(program),
        "critical_path": critical_path(program, len(cores)),
    }


def _operator(program: Program, number: int) -> dict[str, Any]:
    described = program.operators[number]
    args = contract.unpack(described.kernel, program.args[number])
    args = {field: value if math.isfinite(value) else str(value) for field, value in args.items()}  # JSON has no -inf
    found = asdict(described) | {"name": described.name, "args": args}
    if "n_tiles" in args:
        found["column_bytes"] = NUMBERED[args["format"]].column_bytes(args["k_tiles"])
    return found


def task_graph(program: Program) -> dict[str, Any]:
    """Groups and events; lists of signals, publishes and triggers are per owner, `kinds` names a group's kind."""
    groups, events = program.groups, program.events
    return {
        "groups": {key: groups[key].tolist() for key in ("op", "block", "kind", "tiles")},
        "routed": (groups["counts"] >= 0).astype(int).tolist(),
        "kinds": [kind_name(kind) for kind in range(program.kinds)],
        "events": {key: events[key].tolist() for key in ("needed", "dynamic")},
        "signals": _lists(program.signals),
        "publishes": _lists(program.publishes),
        "triggers": _lists(program.triggers),
        "wakes": [dict(zip(program.wakes.dtype.names or (), wake.tolist(), strict=True)) for wake in program.wakes],
        "roots": program.roots.tolist(),
        "end": program.end,
    }


def critical_path(program: Program, workers: int) -> list[dict[str, int]]:
    """The groups (with their tasks, which may be none) and events on the critical path of a decode step, in order."""
    step = Step(program, 1, workers)
    return [
        {kind: number, "tasks": int(step.tasks[number])} if kind == "group" else {kind: number}
        for kind, number in step.walk().critical_path
    ]


def kind_name(kind: int) -> str:
    """What the extent of a group of this kind follows."""
    if kind < Kind.ITEMS:
        return Kind(kind).name.lower()
    window, merges = divmod(kind - Kind.ITEMS, 2)
    return f"{'merges' if merges else 'items'} of window class {window}"


def sources(program: Program) -> dict[str, str]:
    """The text of every model line that an operator comes from, as far as it can be read."""
    lines = {operator.line for operator in program.operators}
    return {line: text for line in sorted(lines) if (text := _source(line))}


def _source(line: str) -> str:
    name, _, number = line.rpartition(":")
    package = Path(__file__).parents[1]
    path = (package / name).resolve()
    if not number.isdecimal() or package.joinpath("models").resolve() not in path.parents:
        return ""
    return linecache.getline(str(path), int(number)).strip()


def _lists(lists: Lists) -> list[list[int]]:
    items, begin = lists.items.tolist(), lists.begin.tolist()
    return [items[begin[owner] : begin[owner + 1]] for owner in range(len(lists))]
