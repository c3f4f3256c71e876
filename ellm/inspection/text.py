"""Programs as text: the tasks of an operator, buffers with their lifetimes, and Graphviz."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from itertools import groupby

from ellm.inspection.contracts import contracts
from ellm.inspection.record import kind_name
from ellm.inspection.steps import Step, WalkedStep
from ellm.kernels import contract
from ellm.kernels.formats import NUMBERED
from ellm.scheduler.program import Program
from ellm.system.errors import InputError
from ellm.system.memory import readable

_MOST_GROUPS = 16


def operator_number(program: Program, name: str) -> int:
    """The operator of this name. Raises InputError that says which names are like it."""
    if name in program.op_names:
        return program.op_names.index(name)
    like = [one for one in program.op_names if one.endswith(f".{name}")][:1]
    like = like or difflib.get_close_matches(name, program.op_names, 3)
    hint = f"; there is {', '.join(like)}" if like else ""
    raise InputError(f"no operator is called {name!r}{hint}")


def tasks(program: Program, name: str, cores: Sequence[int]) -> list[str]:
    """An operator's contract, arguments, groups with their events, and which core owns which of its tasks."""
    number = operator_number(program, name)
    operator = program.operators[number]
    kernel, tiles = operator.kernel, operator.tiles
    groups = [int(group) for group in (program.groups["op"] == number).nonzero()[0]]
    fields = contract.unpack(kernel, program.args[number])
    lines = [
        f"OPERATOR {name}",
        f"kernel       {kernel}: {contracts()[kernel].text}",
        f"model line   {operator.line}",
        f"output       {operator.shape}",
        *(f"weight       {role} = {one}" for role, one in operator.weights.items()),
        f"arguments    {', '.join(f'{field}={value}' for field, value in fields.items())}",
    ]
    if "n_tiles" in fields:
        column = NUMBERED[fields["format"]].column_bytes(fields["k_tiles"])
        size = readable(column * fields["task_tiles"])
        lines.append(
            f"a task       up to {fields['task_tiles']} of {fields['n_tiles']} column tiles: {size} of weights"
        )
    lines += ["", "HOME CORES", *_homes(tiles, cores), ""]
    lines.append(f"{'GROUPS':<10}{'block':>8}{'tasks':>8}  {'counted by':<12}{'published by':<40}signals")
    lines += [_group(program, group) for group in groups[:_MOST_GROUPS]]
    if len(groups) > _MOST_GROUPS:
        lines.append(f"and {len(groups) - _MOST_GROUPS} more, one an expert")
    return lines


def _homes(tiles: int, cores: Sequence[int]) -> list[str]:
    bounds = [tiles * worker // len(cores) for worker in range(len(cores) + 1)]
    owned = zip(cores, bounds, bounds[1:], strict=False)
    return [f"core {core:<8}{_span(begin, end)}" for core, begin, end in owned]


def _span(begin: int, end: int) -> str:
    if end - begin < 2:
        return f"task {begin}" if begin < end else "none"
    return f"tasks {begin} to {end - 1}"


def _group(program: Program, number: int) -> str:
    group = program.groups[number]
    by = [_event(program, event) for event in range(len(program.events)) if number in program.publishes[event]]
    by += ["the start of the step"] if number in program.roots else []
    by += [
        f"group {wake['group']}, if its expert has rows"
        for wake in program.wakes
        if wake["first"] <= number and program.groups["op"][wake["first"]] == group["op"]
    ]
    counted = "row tiles" if group["counts"] >= 0 else kind_name(int(group["kind"]))
    signals = ", ".join(f"event {event}" for event in program.signals[number]) or "nothing"
    return f"{number:<10}{group['block']:>8}{group['tiles']:>8}  {counted:<12}{', '.join(by):<40}{signals}"


def _event(program: Program, number: int) -> str:
    needed, dynamic = (int(part) for part in program.events[number])
    if number in program.wakes["join"]:
        return f"event {number} (one a woken expert)"
    plus = f" + {kind_name(dynamic)} blocks" if dynamic >= 0 else ""
    return f"event {number} (needs {needed}{plus})"


def chain(program: Program, step: Step, walked: WalkedStep) -> str:
    """The operators on the critical path that have tasks in this step; layers that it passes alike are said once."""
    on = [
        program.operators[program.groups["op"][at]]
        for kind, at in walked.critical_path
        if kind == "group" and step.tasks[at]
    ]
    parts = [
        (layer >= 0, [operator.part for operator in operators])
        for layer, operators in groupby(on, lambda operator: operator.layer)
    ]
    found = []
    for (inside, names), alike in groupby(parts):
        times = len(list(alike))
        found.append(f"{times} x ({', '.join(names)})" if inside else ", ".join(names))
    return ", ".join(found)


def buffers(program: Program) -> list[str]:
    """Every buffer in order of address, with the operators that access it first and last."""
    plan, names = program.plan, [*program.op_names, "end of the step"]
    lines = []
    for title, key in (("SECTION of a row block", "buffers"), ("SHARED by all row blocks", "shared_buffers")):
        listed = getattr(plan, key)
        if listed:
            lines.append(f"{title:<44}{'offset':>12}{'bytes':>12}  first to last access")
        for one in listed:
            lines.append(f"{one.name:<44}{one.offset:>12}{one.bytes:>12}  {names[one.first]} to {names[one.last]}")
    return lines


def dot(program: Program, name: str) -> list[str]:
    """The operators and what each waits for in Graphviz's language, a cluster a layer."""
    operators = program.operators
    layers: dict[int, list[str]] = {}
    for number, one in enumerate(operators):
        label = json.dumps(f"{one.name}\n{one.kernel} {one.shape}\n{one.tiles} tasks", ensure_ascii=False)
        layers.setdefault(one.layer, []).append(f"    op{number} [label={label}];")
    lines = [f"digraph {json.dumps(name, ensure_ascii=False)} {{", "  node [shape=box, fontname=sans];"]
    for layer, nodes in layers.items():
        inside = [f"  subgraph cluster_{layer} {{", f'    label="layer {layer}";', *nodes, "  }"]
        lines += inside if layer >= 0 else [node[2:] for node in nodes]
    lines += [f"  op{before} -> op{number};" for number, one in enumerate(operators) for before in one.after]
    return [*lines, "}"]


def by_precision(sizes: Mapping[str, int]) -> str:
    """Sizes for people, largest first."""
    ordered = sorted(sizes.items(), key=lambda item: -item[1])
    return ", ".join(f"{precision} {readable(size)}" for precision, size in ordered)
