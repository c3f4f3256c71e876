"""The least work that a token needs: bytes that must be read, floating-point operations that must be done.

Padding is not counted: it is the program's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ellm.kernels import contract
from ellm.scheduler.program import Program

FLOPS_PER_WEIGHT = 2  # and row
BF16 = 2


@dataclass
class Cost:
    """Work of a model by step. `attends` holds (query width, key/value width, window or 0) of each attention."""

    weight_bytes: int  # read once in a step, however many rows it has
    row_flops: int
    logit_flops: int  # of a row that wants logits
    attends: list[tuple[int, int, int]]

    @classmethod
    def of(cls, program: Program) -> Cost:
        """Count what a program's operators do, by the true sizes of their weights."""
        cost = cls(0, 0, 0, [])
        for op, description in enumerate(program.meta["operators"]):
            kernel, flops = description["kernel"], description["flops"]
            cost.weight_bytes += flops // FLOPS_PER_WEIGHT * BF16
            if kernel == "logits":
                cost.logit_flops += flops
            else:
                cost.row_flops += flops
            if kernel == "attend":
                args = contract.unpack(kernel, program.args[op])
                widths = (args["heads"] * args["head_dim"], args["kv_heads"] * args["head_dim"])
                cost.attends.append((*widths, args["window"]))
        return cost

    def decode_bytes(self, position: int) -> int:
        """Bytes that one token at `position` reads: the weights, and the keys and values that it attends to."""
        return self.weight_bytes + sum(
            2 * BF16 * width * min(position + 1, window or position + 1) for _, width, window in self.attends
        )

    def prefill_flops(self, begin: int, end: int) -> int:
        """Operations of rows at positions [begin, end) of one sequence, of which the last wants logits."""
        positions = np.arange(begin, end)
        flops = (end - begin) * self.row_flops + self.logit_flops
        for width, _, window in self.attends:
            flops += 4 * width * int(np.minimum(positions + 1, window or end).sum())
        return flops
