"""What the operators of a program must read and compute in one step."""

from __future__ import annotations

import numpy as np

from ellm.kernels import contract
from ellm.kernels.records import RECORDS
from ellm.profiling.recorder import Step
from ellm.scheduler.program import Kind, Program


def demand(program: Program, step: Step, tasks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of weights, keys and values, and floating-point operations, of each operator: two arrays [operators].

    `tasks` [operators] are those that ran: of the experts' weights, those count whose tasks did.
    """
    operators = program.operators
    size, flops = np.zeros(len(operators)), np.zeros(len(operators))
    for op, description in enumerate(operators):
        rows = step.logit_rows if program.kind(op) == Kind.LOGITS else step.rows
        if tasks[op] == 0:
            continue
        if Kind.attends(program.kind(op)):
            size[op], flops[op] = attention(program, op, step)
        elif description.experts:
            size[op] = tasks[op] * description.weight_bytes / (description.experts * description.tiles)
            flops[op] = description.flops * rows
        else:
            size[op] = description.weight_bytes * -(-rows // program.row_block)
            flops[op] = description.flops * rows
    return size, flops


def attention(program: Program, op: int, step: Step) -> tuple[int, int]:
    """Bytes of the keys and values that the rows see between them, and operations, of one attend."""
    kernel = program.kernels[program.op_kernel[op]]
    args, record = contract.unpack(kernel, program.args[op]), RECORDS[kernel]
    end = step.first + step.rows
    window = args["window"] or end
    keys = np.minimum(np.arange(step.first + 1, end + 1), window)
    seen = record.work(args, keys=min(end, window + step.rows - 1))
    return seen.cache_bytes, record.work(args, keys=int(keys.sum())).flops
