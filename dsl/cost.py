"""What an operator costs: for reports only."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from ellm.dsl.operator import Operator
from ellm.dsl.packing import Packed, Region
from ellm.dsl.tensor import Weight, text
from ellm.kernels.formats import FORMATS


def describe(operator: Operator) -> dict[str, Any]:
    """What `Program.meta["operators"]` says of an operator.

    `after` are the numbers of the operators that its row block waits for. `flops` are floating-point operations per
    row, `flops_per_key` those per row and key that it attends to. `weight_bytes` are read once per row block, by
    `tiles` tasks (per item for attend and merge, per row for sample). Of `experts` (0: it has none) `weight_bytes` are
    those of all, `tiles` those of one for a row tile, and a row goes to `top_k`. `token_bytes` are the weights that one
    row needs, without padding, in `precision`, which is that of the packed weight ("": it has no matrix).
    """
    node, record = operator.node, operator.record
    packed = operator.args.get(record.matrix)
    precision = packed.entry.get("format", "") if isinstance(packed, Packed) else ""
    flops = record.work(operator.args).flops * (operator.top_k if operator.experts else 1)
    return {
        "name": operator.name,
        "kernel": operator.kernel,
        "line": node.line,
        "shape": text(node.shape),
        "weights": {role: _weight(weight) for role, weight in node.weights.items()},
        "after": operator.after,
        "tiles": operator.tiles,
        "flops": flops,
        "flops_per_key": record.work(operator.args, keys=1).flops if record.attends else 0,
        "weight_bytes": operator.weight_bytes,
        "token_bytes": math.ceil(flops // 2 * FORMATS[precision].stored_bits / 8) if flops else 0,
        "precision": precision,
        "experts": operator.experts,
        "top_k": operator.top_k,
    }


def cache_bytes(operators: list[Operator]) -> int:
    """Bytes of keys and values that one position of a sequence adds."""
    return sum(operator.record.appended(operator.numbers()) for operator in operators)


def weight_bytes(region: Region) -> dict[str, int]:
    """Bytes of packed weights by format; vectors and constants are "f32"."""
    found: Counter[str] = Counter()
    for packed in region.packed.values():
        found[packed.entry.get("format", "f32")] += packed.bytes
    return dict(found)


def _weight(weight: Weight) -> dict[str, Any]:
    return {"name": weight.name, "shape": list(weight.shape)}
