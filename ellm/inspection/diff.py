"""What differs between two programs, operator by operator; what differs alike in many layers is said once."""

from __future__ import annotations

import re
from typing import Any

from ellm.inspection.layers import layer_of, settings
from ellm.scheduler.program import Program

_WHOLE = (
    *("row_block", "blocks", "context", "vocab", "windows", "weights_bytes", "section_bytes", "shared_bytes"),
    *("scratch_bytes", "range_bytes", "partials"),
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
    found: dict[tuple[str, str], list[str]] = {}
    first, second = ({name: number for number, name in enumerate(program.op_names)} for program in (ours, theirs))
    for name in dict.fromkeys((*first, *second)):
        if name not in second:
            change = f"only in the first ({ours.meta['operators'][first[name]]['kernel']})"
        elif name not in first:
            change = f"only in the second ({theirs.meta['operators'][second[name]]['kernel']})"
        else:
            change = _change(_described(ours, first[name]), _described(theirs, second[name]))
        if change:
            found.setdefault((_unnumbered(name), change), []).append(name)
    lines += [f"{_names(names)}: {change}" for (_, change), names in found.items()]
    same = sum(name in second for name in first) - sum(
        len(names) for (_, change), names in found.items() if not change.startswith("only in")
    )
    return [*lines, f"{same} of {len(first)} operators are the same" if lines else "no difference"]


def _described(program: Program, number: int) -> dict[str, Any]:
    """What an operator is, without where it lies: weights by role, what it waits for by name."""
    operator = program.meta["operators"][number]
    found = {part: operator[part] for part in _PARTS}
    found |= {f"weight {role}": one["name"] + str(one["shape"]) for role, one in operator["weights"].items()}
    waits = sorted((program.op_names[one] for one in operator["after"]), key=lambda name: (layer_of(name), name))
    found["waits for"] = ", ".join(waits)  # layer 9 before layer 10, so that all layers read the same
    return found | settings(program, number)


def _change(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    parts = dict.fromkeys((*ours, *theirs))
    return ", ".join(
        f"{part} {_arrow(str(ours.get(part, 'none')), str(theirs.get(part, 'none')))}"
        for part in parts
        if ours.get(part) != theirs.get(part)
    )


def _arrow(before: str, after: str) -> str:
    """Both texts, without the numbers of layers if they differ in more: what changes in all layers reads the same."""
    plain = _unnumbered(before), _unnumbered(after)
    return " -> ".join(plain if plain[0] != plain[1] else (before, after))


def _unnumbered(text: str) -> str:
    return re.sub(r"\blayers\.\d+\.", "layers.*.", text)


def _names(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    layers = [int(name.split(".")[1]) for name in names]
    span = f"layers {layers[0]} to {layers[-1]}" if layers == list(range(layers[0], layers[-1] + 1)) else ""
    return f"{_unnumbered(names[0])} ({span or f'{len(names)} layers from {layers[0]} to {layers[-1]}'})"
