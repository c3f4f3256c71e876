"""The reference executor: one program, one thread, NumPy kernels, and every dependency asserted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from ellm.kernels import contract, reference
from ellm.scheduler.program import Program
from ellm.scheduler.step import StepInput, StepTables


def walk(program: Program, counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Groups that a step with these counts runs, and their numbers of tasks, in an order that respects every event.

    Raises AssertionError if an event gets more signals than it needs, a group is published twice, the step ends early
    or never, or a group whose count is not 0 is not run.
    """
    events, groups = program.events, program.groups
    needed = events["needed"].astype(int)
    for event in np.flatnonzero(events["dynamic"] >= 0).tolist():
        needed[event] += np.count_nonzero(counts[events["dynamic"][event]])
    tasks = counts[groups["kind"], groups["block"]] * groups["tiles"]
    signalled = np.zeros(len(events), int)
    published = np.zeros(len(groups), bool)
    ready: deque[int] = deque()
    signals: deque[int] = deque()

    def publish(group: int) -> None:
        assert not published[group], f"group {group} is published twice"
        published[group] = True
        if tasks[group]:
            ready.append(group)
        elif groups["completes_empty"][group]:
            signals.extend(program.signals[group].tolist())

    for root in program.roots.tolist():
        if counts[groups["kind"][root], groups["block"][root]]:
            publish(root)
    while ready:
        group = ready.popleft()
        assert signalled[program.end] < needed[program.end], f"group {group} runs after the end of the step"
        yield group, int(tasks[group])
        signals.extend(program.signals[group].tolist())
        while signals:
            event = signals.popleft()
            signalled[event] += 1
            assert signalled[event] <= needed[event], f"event {event} gets more than its {needed[event]} signals"
            if signalled[event] == needed[event]:
                for released in program.publishes[event].tolist():
                    publish(released)
                signals.extend(program.triggers[event].tolist())
    assert signalled[program.end] == needed[program.end], "the step does not end"
    forgotten = np.flatnonzero(~published & (tasks > 0))
    assert not len(forgotten), f"groups {forgotten.tolist()} are never published"


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
    tables = StepTables(program, inputs, workers)
    if arena is None:
        arena = np.zeros(program.arena_bytes, np.uint8)
    step = _view(program, tables)
    args = [_arguments(program, op, weights_address) for op in range(len(program.op_names))]
    for group, tasks in walk(program, tables.counts):
        op, block = int(program.groups["op"][group]), int(program.groups["block"][group])
        kernel = reference.KERNELS[program.kernels[program.op_kernel[op]]]
        total = tables.logit_rows if program.groups["logit_rows"][group] else tables.rows
        row = block * program.row_block
        for index in range(tasks):
            kernel(
                reference.Task(
                    args=args[op],
                    step=step,
                    arena=arena,
                    section=arena[block * program.section_bytes : (block + 1) * program.section_bytes],
                    section_bytes=program.section_bytes,
                    row_block=program.row_block,
                    block=block,
                    row=row,
                    rows=min(program.row_block, total - row),
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
    names = ("rows", "logit_rows", "sample_rows", "tokens", "positions", "slots", "ranges", "logit_row", "logits")
    more = ("sampling", "sampled", "logprob", "items", "item_begin", "merges", "merge_begin")
    partials = np.zeros(program.partials * program.partial_floats, np.float32)
    return reference.StepView(partials=partials, **{name: getattr(tables, name) for name in (*names, *more)})
