"""Programs of probe kernels, made from a list of groups and what each comes after: for tests and benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

import ellm.scheduler.probes as probes
from ellm.kernels.contract import ARGS_BYTES, EXPERT_ROWS
from ellm.kernels.isa import Table
from ellm.scheduler.program import EVENT, GROUP, WAKE, Kind, Lists, Program
from ellm.scheduler.step import StepInput

TABLE = Table("probe", probes.ADDRESSES, probes.ENTER, probes.LEAVE)


@dataclass
class ProbeGroup:
    """Tasks of one probe kernel, which run when all tasks of the groups `after` have run."""

    tiles: int
    after: list[int] = field(default_factory=list)
    kernel: str = "empty"
    args: dict[str, int] = field(default_factory=dict)


def arguments(**values: int) -> np.ndarray:
    """A probe kernel's arguments as uint8 [ARGS_BYTES]; those not given are 0."""
    out = np.zeros(ARGS_BYTES // 8, np.int64)
    for name, value in values.items():
        out[probes.ARGS.index(name)] = value
    return out.view(np.uint8)


def assemble(
    kernels: list[str],
    args: list[dict[str, int]],
    groups: list[tuple[int, ...]],
    events: list[tuple[int, int]],
    edges: dict[str, list[list[int]]],
    **fields: Any,
) -> Program:
    """A program of operators with these kernels and args, and the `edges` signals, publishes and triggers.

    `fields` are those of Program that matter; the rest are as small as they can be.
    """
    rest: dict[str, Any] = {name: Lists.of(lists) for name, lists in edges.items()}
    rest |= {"row_block": 16, "blocks": 1, "section_bytes": 64, "scratch_bytes": 64, "context": 1 << 20, "vocab": 1}
    rest |= {"windows": [], "kv_heads": 0, "fold_heads": 0, "partial_floats": 0, "partials": 0}
    rest |= {"weights_bytes": 0, "range_bytes": 0, **fields}
    names = sorted(set(kernels))
    return Program(
        kernels=names,
        op_kernel=np.array([names.index(kernel) for kernel in kernels], np.int32),
        op_names=[f"{kernel}.{i}" for i, kernel in enumerate(kernels)],
        args=np.array([arguments(**values) for values in args], np.uint8),
        relocations=np.zeros((0, 2), np.int32),
        groups=np.array(groups, GROUP),
        events=np.array(events, EVENT),
        **rest,
    )


def probe_program(groups: list[ProbeGroup]) -> Program:
    """One row block's program. Groups that come after the same groups are published by the same event."""
    events: list[list[int]] = []  # predecessors of each event
    numbers: dict[tuple[int, ...], int] = {}
    publishes: list[list[int]] = []
    for number, group in enumerate(groups):
        key = tuple(sorted(set(group.after)))
        if key and key not in numbers:
            numbers[key] = len(events)
            events.append(list(key))
            publishes.append([])
        if key:
            publishes[numbers[key]].append(number)
    followed = {source for sources in events for source in sources}
    events.append([number for number in range(len(groups)) if number not in followed])
    publishes.append([])
    signals: list[list[int]] = [[] for _ in groups]
    for event, sources in enumerate(events):
        for source in sources:
            signals[source].append(event)
    return assemble(
        [group.kernel for group in groups],
        [group.args for group in groups],
        [(number, 0, Kind.ROWS, group.tiles, 0, 1, -1) for number, group in enumerate(groups)],
        [(len(sources), -1) for sources in events],
        {"signals": signals, "publishes": publishes, "triggers": [[] for _ in events]},
        roots=np.array([number for number, group in enumerate(groups) if not group.after], np.int32),
        end=len(events) - 1,
    )


def choice(experts: int, hit: list[int], counts: list[int]) -> np.ndarray:
    """What `choose` writes: the experts that are hit and each one's rows, `counts` full row tiles.

    The others' rows are not to be used.
    """
    out = np.full(1 + 2 * experts, 1 << 30, np.int32)
    out[0], out[1 : 1 + len(hit)] = len(hit), hit
    out[1 + experts + np.array(hit, int)] = EXPERT_ROWS * np.array(counts, int)
    return out


def routed_program(layers: int, choice: np.ndarray, tiles: int, *, between: str = "empty", **args: int) -> Program:
    """Layers one after the other: choose, an operator `up` and an operator `down` of the experts hit, and `between`."""
    experts = len(choice) // 2
    list_bytes, counts = 4 * (1 + experts), 64 + 4 * (1 + experts)
    chosen = {"choice": choice.ctypes.data, "experts": experts, "list": 64, "counts": counts}
    groups: list[tuple[int, ...]] = []
    edges: dict[str, list[list[int]]] = {"signals": [], "publishes": [], "triggers": []}
    wakes = []
    for layer in range(layers):
        first, op, event = len(groups), 4 * layer, (experts + 2) * layer
        ups, downs, last = first + 1, first + 1 + experts, first + 1 + 2 * experts
        join, done = event + experts, event + experts + 1
        groups += [(op, 0, Kind.ROWS, 1, 0, 1, -1)]
        groups += [(op + i, e, Kind.ROWS, tiles, 0, 1, counts) for i in (1, 2) for e in range(experts)]
        groups += [(op + 3, 0, Kind.ROWS, 1, 0, 1, -1)]
        edges["signals"] += [[], *([event + e] for e in range(experts)), *([join] for _ in range(experts)), [done]]
        edges["publishes"] += [*([downs + e] for e in range(experts)), [last], [last + 1] if layer + 1 < layers else []]
        wakes.append((first, 64, ups, join))
    events = [(1, -1)] * ((experts + 2) * layers)
    edges["triggers"] = [[] for _ in events]
    return assemble(
        ["choose", "empty", "empty", between] * layers,
        [chosen, {}, {}, args] * layers,
        groups,
        events,
        edges,
        roots=np.array([0], np.int32),
        end=len(events) - 1,
        shared_bytes=list_bytes + 4 * experts,
        wakes=np.array(wakes, WAKE),
    )


def one_row() -> StepInput:
    """The smallest step."""
    return StepInput.of([0])
