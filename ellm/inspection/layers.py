"""Layers of a program that repeat: runs of layers whose operators are the same but for where things lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ellm.kernels import contract
from ellm.scheduler.program import Program

ADDRESSES = ("buffer", "weight", "range", "shared")
"""Types of arguments that say where something lies, not what is done."""


@dataclass(frozen=True)
class Repeat:
    """`times` blocks of `period` layers each, from layer `first` on."""

    first: int
    period: int
    times: int

    @property
    def end(self) -> int:
        """The layer after the last block."""
        return self.first + self.period * self.times


def repeats(program: Program) -> list[Repeat]:
    """The layers in order, as few blocks as they fold into; a layer that is like no neighbour is a block on its own."""
    kinds = _kinds(program)
    found, first = [], 0
    while first < len(kinds):
        period, times = max(
            ((period, _times(kinds, first, period)) for period in range(1, 1 + max(1, (len(kinds) - first) // 2))),
            key=lambda fold: (fold[0] * fold[1] if fold[1] > 1 else 1, -fold[0]),
        )
        found.append(Repeat(first, period if times > 1 else 1, times))
        first = found[-1].end
    return found


def _times(kinds: Sequence[Any], first: int, period: int) -> int:
    """How often the `period` kinds from `first` on come one after the other."""
    times = 1
    while kinds[first : first + period] == kinds[first + times * period : first + (times + 1) * period]:
        times += 1
    return times


def _kinds(program: Program) -> list[tuple]:
    """What each layer does: equal for layers that differ in addresses and names of tensors only."""
    layers: dict[int, list[tuple]] = {}
    operators = program.operators
    for number, operator in enumerate(operators):
        layer = operator.layer
        if layer < 0:
            continue
        inside = [operators[one].part for one in operator.after if operators[one].layer == layer]
        same = [getattr(operator, name) for name in ("kernel", "shape", "tiles", "precision", "experts", "top_k")]
        layers.setdefault(layer, []).append((operator.part, *inside, *same, *settings(program, number).items()))
    return [tuple(layers[layer]) for layer in sorted(layers)]


def settings(program: Program, operator: int) -> dict[str, Any]:
    """The arguments of an operator that are not addresses; of these, whether they are absent."""
    kernel = program.kernels[program.op_kernel[operator]]
    values = contract.unpack(kernel, program.args[operator])
    relocated = set(program.relocations[program.relocations[:, 0] == operator, 1].tolist())
    found: dict[str, Any] = {}
    for name, kind in contract.FIELDS[kernel].items():
        if kind not in ADDRESSES:
            found[name] = values[name]
        elif kind == "weight":
            found[name] = "present" if contract.weight_fields(kernel)[name] in relocated else "absent"
        elif kind != "range":
            found[name] = "absent" if values[name] == -1 else "present"
    return found
