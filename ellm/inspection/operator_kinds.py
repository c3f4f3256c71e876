"""The operators of a program by kind: what runs in every layer is one kind."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ellm.kernels import contract
from ellm.kernels.routes import ACTIVATIONS
from ellm.scheduler.contents import OperatorInfo
from ellm.scheduler.program import Program

_ROUNDED = {number: name for name, number in ACTIVATIONS.items()}


@dataclass(frozen=True)
class OperatorKind:
    """Operators that differ in their layer only."""

    name: str  # "layers.*.qkv"
    kernel: str
    precision: str  # of its matrix of weights; "" if it has none
    experts: int  # 0: not a bank of experts
    top_k: int

    @classmethod
    def of(cls, operator: OperatorInfo) -> OperatorKind:
        """The kind of an operator."""
        return cls(operator.kind, operator.kernel, operator.precision, operator.experts, operator.top_k)


def kinds(program: Program) -> Counter[OperatorKind]:
    """How many operators of each kind there are, in the order of the program."""
    return Counter(map(OperatorKind.of, program.operators))


def activations(program: Program) -> str:
    """What activations are rounded to where they meet matrices, and in which precisions those are."""
    found: dict[str, set[str]] = {}
    for operator, kernel, args in zip(program.operators, program.op_kernel, program.args, strict=True):
        fields = contract.unpack(program.kernels[kernel], args)
        if operator.precision and "activations" in fields:  # `scatter` rounds for the experts, which say so too
            found.setdefault(_ROUNDED[fields["activations"]], set()).add(operator.precision)
    parts = (f"{name} at {', '.join(sorted(precisions))} weights" for name, precisions in sorted(found.items()))
    return "; ".join(parts) or "bf16"


def table(program: Program, why: dict[OperatorKind, str] | None = None) -> list[str]:
    """One line a kind: how many, its kernel, the precision of its weights, and why it is that."""
    lines = [f"{'operator':<34}{'count':>6}  {'kernel':<16}{'weights':<8}".rstrip()]
    for kind, count in kinds(program).items():
        experts = f"{kind.top_k} of {kind.experts} experts" if kind.experts else ""
        reason = ", ".join(filter(None, [(why or {}).get(kind), experts]))
        lines.append(f"{kind.name:<34}{count:>6}  {kind.kernel:<16}{kind.precision or '-':<8}{reason}".rstrip())
    return lines
