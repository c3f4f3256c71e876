"""What an operator costs: for reports only."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from ellm.dsl.operator import Operator
from ellm.dsl.packing import Packed, Region
from ellm.dsl.tensor import Weight, text
from ellm.kernels.formats import FORMATS

_MATRICES = ("weight", "q", "k", "v", "gate", "up")


def describe(operator: Operator) -> dict[str, Any]:
    """What `Program.meta["operators"]` says of an operator.

    `after` are the numbers of the operators that its row block waits for. `flops` are floating-point operations per
    row, `flops_per_key` those per row and key that it attends to. `weight_bytes` are read once per row block, by
    `tiles` tasks (per item for attend and merge, per row for sample). Of `experts` (0: it has none) `weight_bytes` are
    those of all, `tiles` those of one for a row tile, and a row goes to `top_k`. `token_bytes` are the weights that one
    row needs, without padding, in `precision`, which is that of the packed weight ("": it has no matrix).
    """
    node, packed = operator.node, operator.args.get("table" if operator.kernel == "embed" else "weight")
    matrices = [weight for role, weight in node.weights.items() if role in _MATRICES and _multiplies(operator)]
    precision = packed.entry.get("format", "") if isinstance(packed, Packed) else ""
    size = sum(weight.size for weight in matrices) * (operator.top_k if operator.experts else 1)
    attends = operator.kernel == "attend"
    heads = operator.args.get("heads") if attends else 0
    dims = [operator.args.get(name) for name in ("head_dim", "value_dim")] if attends else []
    return {
        "name": operator.name,
        "kernel": operator.kernel,
        "line": node.line,
        "shape": text(node.shape),
        "weights": {role: _weight(weight) for role, weight in node.weights.items()},
        "after": operator.after,
        "tiles": operator.tiles,
        "flops": 2 * size,
        "flops_per_key": 2 * heads * sum(dims) if attends else 0,  # type: ignore[operator, arg-type]
        "weight_bytes": operator.weight_bytes,
        "token_bytes": math.ceil(size * FORMATS[precision].stored_bits / 8) if matrices else 0,
        "precision": precision,
        "experts": operator.experts,
        "top_k": operator.top_k,
    }


def cache_bytes(operators: list[Operator]) -> int:
    """Bytes of keys and values that one position of a sequence adds."""
    return sum(_cached(operator.kernel, operator.numbers()) for operator in operators)


def weight_bytes(region: Region) -> dict[str, int]:
    """Bytes of packed weights by format; vectors and constants are "f32"."""
    found: Counter[str] = Counter()
    for packed in region.packed.values():
        found[packed.entry.get("format", "f32")] += packed.bytes
    return dict(found)


def _cached(kernel: str, args: dict[str, int | float]) -> int:
    if kernel == "qkv":
        return int(2 * 2 * args["kv_heads"] * args["head_dim"])
    if kernel == "append":
        stored = args["head_dim"] + (0 if args["values_in_keys"] else args["value_dim"])
        return int(2 * args["kv_heads"] * stored)
    return 0


def _multiplies(operator: Operator) -> bool:
    return "weight" in operator.args and "k" in operator.args


def _weight(weight: Weight) -> dict[str, Any]:
    return {"name": weight.name, "shape": list(weight.shape)}
