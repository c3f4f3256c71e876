"""The reference executor: one program, one thread, NumPy kernels, and every dependency asserted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ellm.kernels import contract, reference
from ellm.scheduler.program import Program
from ellm.scheduler.step import StepInput
from ellm.scheduler.tables import StepTables
from ellm.scheduler.walk import What, moments


class _Routed:
    """What kernels have written to the arena."""

    def __init__(self, program: Program, arena: np.ndarray | None):
        self.program, self.arena = program, arena

    def tasks(self, group: int) -> int:
        """Tasks of a group of experts."""
        assert self.arena is not None, f"group {group} is sized by the arena"
        groups = self.program.groups
        begin = groups["counts"][group] + 4 * groups["block"][group]
        rows = int(self.arena[begin : begin + 4].view(np.int32)[0])
        return -(-rows // contract.EXPERT_ROWS) * int(groups["tiles"][group])

    def woken(self, wake: int) -> list[int]:
        """The groups that the list of a wake names."""
        found = self.program.wakes[wake]
        assert self.arena is not None, f"group {found['group']} writes a list of groups to the arena"
        count = self.arena[found["list"] :][:4].view(np.int32)[0]
        experts = self.arena[found["list"] + 4 :][: 4 * count].view(np.int32)
        assert len(experts) == count, f"group {found['group']} wakes {count} groups, more than the arena holds"
        return (found["first"] + experts).tolist()


def walk(program: Program, counts: np.ndarray, arena: np.ndarray | None = None) -> Iterator[tuple[int, int]]:
    """Groups that a step with these counts runs, and their numbers of tasks, in an order that respects every event.

    Whoever takes a group must have run it when asking for the next: what it wakes is then read from the arena (uint8).
    Raises AssertionError as `moments` does.
    """
    routed = _Routed(program, arena)
    groups = program.groups
    for moment in moments(program, counts, routed):
        if moment.what is What.RUN:
            number = moment.number
            if groups["counts"][number] < 0:
                yield (
                    number,
                    int(counts[groups["kind"][number], groups["block"][number]]) * int(groups["tiles"][number]),
                )
            else:
                yield number, routed.tasks(number)


def run(
    program: Program,
    weights_address: int,
    inputs: StepInput,
    arena: np.ndarray | None = None,
    *,
    workers: int = 1,
) -> np.ndarray:
    """Run one step with the kernels of ellm.kernels.reference and return the arena (uint8 [arena_bytes]).

    workers: of the pool whose cut of attention is to be reproduced.
    """
    tables = StepTables(program, workers).fill(inputs)
    if arena is None:
        arena = np.zeros(program.arena_bytes, np.uint8)
    step = _view(program, tables)
    args = [_arguments(program, op, weights_address) for op in range(len(program.op_names))]
    for group, tasks in walk(program, tables.counts, arena):
        op, block = int(program.groups["op"][group]), int(program.groups["block"][group])
        kernel = reference.KERNELS[program.kernels[program.op_kernel[op]]]
        total = tables.logit_rows if program.groups["logit_rows"][group] else tables.rows
        expert = program.groups["counts"][group] >= 0  # then the block is its number, and no row block
        section = 0 if expert else block * program.section_bytes
        row = 0 if expert else block * program.row_block
        for index in range(tasks):
            kernel(
                reference.Task(
                    args=args[op],
                    step=step,
                    arena=arena,
                    section=arena[section : section + program.section_bytes],
                    section_bytes=program.section_bytes,
                    row_block=program.row_block,
                    block=block,
                    row=row,
                    rows=0 if expert else min(program.row_block, total - row),
                    index=index,
                )
            )
    return arena


def _arguments(program: Program, op: int, weights_address: int) -> dict[str, Any]:
    """An operator's arguments with real addresses."""
    kernel = program.kernels[program.op_kernel[op]]
    args = contract.unpack(kernel, program.args[op])
    relocated = program.relocations[program.relocations[:, 0] == op, 1].tolist()
    for name, byte in contract.weight_fields(kernel).items():
        if byte in relocated:
            args[name] += weights_address
    return args


def _view(program: Program, tables: StepTables) -> reference.StepView:
    names = (
        "rows",
        "logit_rows",
        "sample_rows",
        "tokens",
        "positions",
        "slots",
        "ranges",
        "blocks",
        "logit_row",
        "logits",
    )
    more = ("sampling", "sampled", "logprob", "items", "item_begin", "merges", "merge_begin", "input_rows")
    partials = np.zeros(program.partials * program.partial_floats, np.float32)
    return reference.StepView(
        partials=partials,
        context_blocks=program.context_blocks,
        **{name: getattr(tables, name) for name in (*names, *more)},
    )
