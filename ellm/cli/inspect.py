"""`ellm inspect`: a model's graph, tasks and memory plan, from its configuration alone."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import ellm.dsl
import ellm.models
from ellm.checkpoint import open_checkpoint
from ellm.checkpoint.json_file import read_json
from ellm.cost import Cost
from ellm.kernels.contract import SAMPLING
from ellm.memory import readable
from ellm.runtime import check_context
from ellm.scheduler import StepInput, StepTables, topology
from ellm.scheduler.program import Program


def inspect(model: str, context: int | None) -> None:
    """Print the report."""
    compiled = ellm.models.from_config(read_config(model))
    program = ellm.dsl.compile(compiled.graph(), context=check_context(context, compiled.context))
    print("\n".join([*graph_lines(program), "", *task_lines(program), "", *memory_lines(program)]))


def read_config(model: str) -> dict[str, Any]:
    """config.json of a folder, whose weights need not be there, or of any other model."""
    path = Path(model).expanduser() / "config.json"
    if path.is_file():
        return read_json(path)
    with open_checkpoint(model, progress=True) as checkpoint:
        return checkpoint.config


def graph_lines(program: Program) -> list[str]:
    """The graph after the rewrites, one line a node, and what a token costs."""
    cost = Cost.of(program)
    return [
        "GRAPH (fused)",
        program.meta["graph"].rstrip(),
        "",
        f"a token reads {readable(cost.weight_bytes)} of bf16 weights and "
        f"{readable(program.meta['cache_bytes'])} of keys and values per token of context",
        f"a row multiplies {cost.row_flops / 1e9:.3f} GFLOP, and {cost.logit_flops / 1e9:.3f} for its logits",
    ]


def task_lines(program: Program) -> list[str]:
    """Tasks and events of a decode step and of a full prefill step, by kernel, and their critical paths."""
    workers = len(topology.choose_cores(None))
    steps = {"decode": 1, f"prefill {program.chunk}": program.chunk}
    counts = [step_counts(program, rows, workers) for rows in steps.values()]
    tasks = [tasks_of(program, table) for table in counts]
    paths = [critical_path(program, table) for table in counts]
    blocks = f"{program.blocks} blocks of {program.row_block} rows"
    lines = [
        f"TASKS ({len(program.op_names)} operators, {blocks}, {workers} workers)",
        f"{'kernel':<22}{'operators':>10}" + "".join(f"{name:>14}" for name in steps),
    ]
    kernel_of_group = program.op_kernel[program.groups["op"]]
    operators = Counter(program.op_kernel.tolist())
    for number, kernel in enumerate(program.kernels):
        sums = "".join(f"{numbers[kernel_of_group == number].sum():>14}" for numbers in tasks)
        lines.append(f"{kernel:<22}{operators[number]:>10}{sums}")
    lines.append(f"{'all tasks':<32}" + "".join(f"{numbers.sum():>14}" for numbers in tasks))
    lines.append(f"{'events':<32}" + "".join(f"{events:>14}" for _, events in paths))
    lines.append(f"{'critical path in tasks':<32}" + "".join(f"{length:>14}" for length, _ in paths))
    return lines


def memory_lines(program: Program) -> list[str]:
    """What the program keeps, and its arena beside the least that any plan could do with."""
    plan = program.meta["plan"]
    return [
        "MEMORY",
        f"weights      {readable(program.weights_bytes)}, packed",
        f"arena        {readable(program.arena_bytes)}: {program.blocks} sections of {plan['section_bytes']} bytes "
        f"for {len(plan['buffers'])} buffers; lower bound {plan['lower_bound']} bytes",
        f"scratch      {readable(program.scratch_bytes)} per worker",
        f"partials     {readable(4 * program.partials * program.partial_floats)} of attention",
        f"KV cache     {readable(program.range_bytes)} of address space per sequence of {program.context} tokens, "
        f"touched as it grows",
        "",
        f"{'buffer':<40}{'offset':>12}{'bytes':>12}",
        *buffer_lines(plan["buffers"]),
    ]


def buffer_lines(buffers: list[dict[str, Any]]) -> list[str]:
    """One line a place in a section; the layers' buffers that take turns there are one."""
    places = Counter((re.sub(r"\d+", "*", buffer["name"]), buffer["offset"], buffer["bytes"]) for buffer in buffers)
    return [
        f"{name + (f' (x {count})' if count > 1 else ''):<40}{offset:>12}{size:>12}"
        for (name, offset, size), count in sorted(places.items(), key=lambda item: item[0][1])
    ]


def step_counts(program: Program, rows: int, workers: int) -> np.ndarray:
    """counts[kind, block] of a step of the first rows of one sequence, the last of which is sampled."""
    step = StepInput(
        tokens=np.zeros(rows, np.int32),
        positions=np.arange(rows, dtype=np.int32) % program.context,
        slots=np.arange(rows, dtype=np.int32) // program.context,
        ranges=np.zeros(rows, np.uint64),
        logit_row=np.array([rows - 1], np.int32),
        logits=np.zeros((1, program.vocab), np.float32),
        sampling=np.zeros(1, SAMPLING),
        sampled=np.zeros(1, np.int32),
        logprob=np.zeros(1, np.float32),
    )
    return StepTables(program, step, workers).counts


def tasks_of(program: Program, counts: np.ndarray) -> np.ndarray:
    """Tasks of every group."""
    return counts[program.groups["kind"], program.groups["block"]] * program.groups["tiles"]


def critical_path(program: Program, counts: np.ndarray) -> tuple[int, int]:
    """(tasks on the longest chain of dependencies, events that fire) of a step."""
    tasks = tasks_of(program, counts)
    missing = [int(event["needed"]) for event in program.events]
    for number, event in enumerate(program.events):
        if event["dynamic"] >= 0:
            missing[number] += int(np.count_nonzero(counts[event["dynamic"]]))
    depth = [0] * len(program.events)
    ready = [(int(group), 0) for group in program.roots]  # groups, and the tasks before them
    fired = 0
    while ready:
        group, before = ready.pop()
        if not tasks[group] and not program.groups["completes_empty"][group]:
            continue
        signals = [(int(event), before + bool(tasks[group])) for event in program.signals[group]]
        while signals:
            event, after = signals.pop()
            depth[event] = max(depth[event], after)
            missing[event] -= 1
            if missing[event] == 0:
                fired += 1
                ready += [(int(published), depth[event]) for published in program.publishes[event]]
                signals += [(int(other), depth[event]) for other in program.triggers[event]]
    return depth[program.end], fired
