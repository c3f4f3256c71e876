"""What differs between two programs, operator by operator; what differs alike in many layers is said once."""

from __future__ import annotations

from ellm.inspection.layers import settings
from ellm.scheduler.contents import OperatorInfo
from ellm.scheduler.program import Program

_WHOLE = (
    *("row_block", "blocks", "context", "vocab", "windows", "weights_bytes", "section_bytes", "shared_bytes"),
    *("scratch_bytes", "range_bytes", "partials", "least_rows"),
)
_PARTS = ("kernel", "shape", "precision", "tiles", "experts", "top_k", "flops", "flops_per_key", "weight_bytes")


def diff(ours: Program, theirs: Program) -> list[str]:
    """Lines "what: this -> other". Addresses are not compared: any change moves those behind it."""
    lines = [
        f"program: {name} {getattr(ours, name)} -> {getattr(theirs, name)}"
        for name in _WHOLE
        if getattr(ours, name) != getattr(theirs, name)
    ]
    for name in ("groups", "events"):
        before, after = (len(getattr(program, name)) for program in (ours, theirs))
        lines += [f"program: {name} {before} -> {after}"] if before != after else []
    found: dict[tuple[str, str], list[OperatorInfo]] = {}
    first, second = ({name: number for number, name in enumerate(program.op_names)} for program in (ours, theirs))
    for name in dict.fromkeys((*first, *second)):
        operator = ours.operators[first[name]] if name in first else theirs.operators[second[name]]
        if name not in second:
            change = f"only in the first ({operator.kernel})"
        elif name not in first:
            change = f"only in the second ({operator.kernel})"
        else:
            change = _change(_described(ours, first[name]), _described(theirs, second[name]))
        if change:
            found.setdefault((operator.kind, change), []).append(operator)
    lines += [f"{_names(alike)}: {change}" for (_, change), alike in found.items()]
    same = sum(name in second for name in first) - sum(
        len(alike) for (_, change), alike in found.items() if not change.startswith("only in")
    )
    return [*lines, f"{same} of {len(first)} operators are the same" if lines else "no difference"]


def _described(program: Program, number: int) -> dict[str, tuple[str, str]]:
    """What an operator is, without where it lies: weights by role, what it waits for by name.

    Each as text, and as what that is in all layers that are alike.
    """
    operator = program.operators[number]
    same = {part: getattr(operator, part) for part in _PARTS} | settings(program, number)
    found = {part: (str(value), str(value)) for part, value in same.items()}
    for role, weight in operator.weights.items():
        found[f"weight {role}"] = str(weight), operator.unnumbered(str(weight))
    waits = sorted((program.operators[one] for one in operator.after), key=lambda one: (one.layer, one.part))
    found["waits for"] = ", ".join(one.name for one in waits), ", ".join(one.kind for one in waits)
    return found


def _change(ours: dict[str, tuple[str, str]], theirs: dict[str, tuple[str, str]]) -> str:
    """What is different, without the numbers of layers if more is: what changes in all layers reads the same."""
    changes = []
    for part in dict.fromkeys((*ours, *theirs)):
        (before, plain), (after, other) = (one.get(part, ("none", "none")) for one in (ours, theirs))
        if before != after:
            changes.append(f"{part} {plain} -> {other}" if plain != other else f"{part} {before} -> {after}")
    return ", ".join(changes)


def _names(operators: list[OperatorInfo]) -> str:
    if len(operators) == 1:
        return operators[0].name
    layers = [operator.layer for operator in operators]
    span = f"layers {layers[0]} to {layers[-1]}" if layers == list(range(layers[0], layers[-1] + 1)) else ""
    return f"{operators[0].kind} ({span or f'{len(operators)} layers from {layers[0]} to {layers[-1]}'})"
