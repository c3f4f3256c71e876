"""The reference executor: one program, one thread, NumPy kernels, and every dependency asserted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from ellm.scheduler.tables import StepTables

from ellm.kernels import contract, reference
from ellm.scheduler.program import Program
from ellm.scheduler.step import StepInput


def walk(program: Program, counts: np.ndarray, arena: np.ndarray | None = None) -> Iterator[tuple[int, int]]:
    """Groups that a step with these counts runs, and their numbers of tasks, in an order that respects every event.

    Whoever takes a group must have run it when asking for the next: what it wakes is then read from the arena (uint8).
    Raises AssertionError if an event gets more signals than it needs, a group is published twice, the step ends early
    or never, a group whose count is not 0 is not run, or a wake names a group that is not its expert's.
    """
    events, groups = program.events, program.groups
    needed = events["needed"].astype(int)
    for event in np.flatnonzero(events["dynamic"] >= 0).tolist():
        needed[event] += np.count_nonzero(counts[events["dynamic"][event]])
    static = groups["counts"] < 0
    tasks = np.zeros(len(groups), int)
    tasks[static] = counts[groups["kind"][static], groups["block"][static]] * groups["tiles"][static]
    wakes = {int(wake["group"]): wake for wake in program.wakes}
    signalled = np.zeros(len(events), int)
    published = np.zeros(len(groups), bool)
    ready: deque[int] = deque()
    signals: deque[int] = deque()
    fired: deque[int] = deque()

    def publish(group: int) -> None:
        assert not published[group], f"group {group} is published twice"
        published[group] = True
        if not static[group]:
            assert arena is not None, f"group {group} is sized by the arena"
            begin = groups["counts"][group] + 4 * groups["block"][group]
            tasks[group] = int(arena[begin : begin + 4].view(np.int32)[0]) * int(groups["tiles"][group])
        if tasks[group]:
            ready.append(group)
        elif groups["completes_empty"][group]:
            signals.extend(program.signals[group].tolist())

    def wake(group: int, join: int) -> None:
        assert signalled[join] == 0, f"event {join} gets a signal before group {group} says how many it needs"
        woken = _woken(program, wakes[group], arena)
        needed[join] = len(woken)
        if not woken:
            fired.append(join)
        for number in woken:
            assert not static[number], f"group {group} wakes group {number}, which the step sizes"
            expert, block = number - wakes[group]["first"], groups["block"][number]
            assert expert == block, f"group {group} wakes expert {expert}, but group {number} is that of {block}"
            publish(number)

    for root in program.roots.tolist():
        if tasks[root]:
            publish(root)
    while ready:
        group = ready.popleft()
        assert signalled[program.end] < needed[program.end], f"group {group} runs after the end of the step"
        yield group, int(tasks[group])
        if group in wakes:
            wake(group, int(wakes[group]["join"]))
        signals.extend(program.signals[group].tolist())
        while signals or fired:
            if signals:
                event = signals.popleft()
                signalled[event] += 1
                assert signalled[event] <= needed[event], f"event {event} gets more than its {needed[event]} signals"
                if signalled[event] == needed[event]:
                    fired.append(event)
                continue
            event = fired.popleft()
            for released in program.publishes[event].tolist():
                publish(released)
            signals.extend(program.triggers[event].tolist())
    assert signalled[program.end] == needed[program.end], "the step does not end"
    forgotten = np.flatnonzero(~published & (tasks > 0))
    assert not len(forgotten), f"groups {forgotten.tolist()} are never published"


def _woken(program: Program, wake: np.void, arena: np.ndarray | None) -> list[int]:
    """The groups that the list of a wake names."""
    assert arena is not None, f"group {wake['group']} writes a list of groups to the arena"
    count = arena[wake["list"] :][:4].view(np.int32)[0]
    experts = arena[wake["list"] + 4 :][: 4 * count].view(np.int32)
    assert len(experts) == count, f"group {wake['group']} wakes {count} groups, more than the arena holds"
    return (wake["first"] + experts).tolist()


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
    names = ("rows", "logit_rows", "sample_rows", "tokens", "positions", "slots", "ranges", "logit_row", "logits")
    more = ("sampling", "sampled", "logprob", "items", "item_begin", "merges", "merge_begin")
    partials = np.zeros(program.partials * program.partial_floats, np.float32)
    return reference.StepView(partials=partials, **{name: getattr(tables, name) for name in (*names, *more)})
