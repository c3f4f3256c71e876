"""What an operator costs: for reports only."""

from __future__ import annotations

import math

from ellm.dsl.operator import Operator
from ellm.dsl.packing import Packed
from ellm.dsl.tensor import text
from ellm.kernels.formats import FORMATS
from ellm.scheduler.contents import NamedTensor, OperatorInfo


def describe(operator: Operator) -> OperatorInfo:
    """What a Program says of an operator."""
    node, record = operator.node, operator.record
    packed = operator.args.get(record.matrix)
    precision = packed.entry.format if isinstance(packed, Packed) else ""
    flops = record.work(operator.args).flops * (operator.top_k if operator.experts else 1)
    return OperatorInfo(
        part=operator.part,
        kernel=operator.kernel,
        block=node.scope.modules,
        layer=node.scope.layer,
        line=node.line,
        shape=text(node.shape),
        weights={role: NamedTensor(weight.name, weight.shape) for role, weight in node.weights.items()},
        after=tuple(operator.after),
        tiles=operator.tiles,
        flops=flops,
        flops_per_key=record.work(operator.args, keys=1).flops if record.attends else 0,
        weight_bytes=operator.weight_bytes,
        token_bytes=math.ceil(flops // 2 * FORMATS[precision].stored_bits / 8) if flops else 0,
        precision=precision,
        experts=operator.experts,
        top_k=operator.top_k,
    )
