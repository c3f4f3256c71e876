"""What an operator costs: for reports only."""

from __future__ import annotations

import math
from typing import Any

from ellm.dsl.operator import Operator
from ellm.dsl.tensor import features, text


def describe(operator: Operator) -> dict[str, Any]:
    """What `Program.meta["operators"]` says of an operator.

    `after` are the numbers of the operators that its row block waits for. `flops` are floating-point operations per
    row, `flops_per_key` those per row and key that it attends to. `weight_bytes` are read once per row block, by
    `tiles` tasks (per item for attend and merge, per row for sample).
    """
    node = operator.node
    flops = 0
    if "weight" in operator.args and "k" in operator.args:
        used = ("weight", "q", "k", "v", "gate", "up")
        flops = 2 * sum(weight.size for role, weight in node.weights.items() if role in used)
    flops_per_key = 4 * math.prod(features(node.shape)) if operator.kernel == "attend" else 0
    return {
        "name": operator.name,
        "kernel": operator.kernel,
        "line": node.line,
        "shape": text(node.shape),
        "weights": {role: {"name": weight.name, "shape": list(weight.shape)} for role, weight in node.weights.items()},
        "after": operator.after,
        "tiles": operator.tiles,
        "flops": flops,
        "flops_per_key": flops_per_key,
        "weight_bytes": operator.weight_bytes,
    }


def cache_bytes(operators: list[Operator]) -> int:
    """Bytes of keys and values that one position of a sequence adds."""
    writers = [operator.numbers() for operator in operators if operator.kernel in ("qkv", "append")]
    return sum(int(2 * 2 * args["kv_heads"] * args["head_dim"]) for args in writers)
