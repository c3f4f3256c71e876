"""The least work that a token needs: bytes that must be read, floating-point operations that must be done.

Padding is not counted: it is the program's own. Of the experts, those count that one token is routed to.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from ellm.kernels import contract
from ellm.kernels.records import RECORDS
from ellm.scheduler.program import Kind, Program


@dataclass
class Cost:
    """Work of a model. `attends` holds (operations per row and key, bytes per key, window or 0) of each attention."""

    weight_bytes: Counter[str] = field(default_factory=Counter)  # by precision, that one decoded token reads
    row_flops: int = 0
    logit_flops: int = 0  # of a row that wants logits
    attends: list[tuple[int, int, int]] = field(default_factory=list)

    @classmethod
    def of(cls, program: Program) -> Cost:
        """Count what a program's operators do, by the true sizes of their weights."""
        cost = cls()
        for op, description in enumerate(program.operators):
            kernel, flops = description.kernel, description.flops
            if description.token_bytes:
                cost.weight_bytes[description.precision] += description.token_bytes
            if program.kind(op) == Kind.LOGITS:
                cost.logit_flops += flops
            else:
                cost.row_flops += flops
            if Kind.attends(program.kind(op)):
                args = contract.unpack(kernel, program.args[op])
                work = RECORDS[kernel].work(args, keys=1)
                cost.attends.append((work.flops, work.cache_bytes, args["window"]))
        return cost

    def decode_bytes(self, position: int) -> int:
        """Bytes that one token at `position` reads: the weights, and the keys and values that it attends to."""
        return self.weight_bytes.total() + self.cache_bytes(position)

    def cache_bytes(self, position: int) -> int:
        """Bytes of keys and values that a token at `position` attends to."""
        return sum(size * min(position + 1, window or position + 1) for _, size, window in self.attends)

    def prefill_flops(self, begin: int, end: int) -> int:
        """Operations of rows at positions [begin, end) of one sequence, of which the last wants logits."""
        positions = np.arange(begin, end)
        flops = (end - begin) * self.row_flops + self.logit_flops
        for per_key, _, window in self.attends:
            flops += per_key * int(np.minimum(positions + 1, window or end).sum())
        return flops
