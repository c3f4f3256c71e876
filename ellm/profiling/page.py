"""The data of the timeline page."""

from __future__ import annotations

from typing import Any

import numpy as np

from ellm.kernels.records import families
from ellm.profiling.account import OUTSIDE, Account, Accountant, KindTotal, path_kinds
from ellm.profiling.experts import routing
from ellm.profiling.recorder import DECODE, PREFILL, Step
from ellm.scheduler.spans import Activity

MOST_SPANS = 60_000  # drawn; steps beyond that are left out, and the page says so
COUNTS = ("calls", "tasks", "stolen")


def data(
    accountant: Accountant,
    accounts: list[Account],
    steps: list[Step],
    names: list[str],
    model: str,
    limits: tuple[float, float],
) -> dict[str, Any]:
    """What the page shows: figures, a timeline of the first steps, totals by operator and core, the experts.

    `limits` are the machine's, in bytes and operations a second.
    """
    shown = _shown(accountant, steps)
    figures = [*_figures(accounts), ["steps drawn", f"{len(shown)} of {len(steps)}", "the first of each phase"]]
    if accountant.dropped:
        figures.append(["records dropped", f"{accountant.dropped}", "the rings were full: later steps are left out"])
    return {
        "name": model,
        "figures": figures,
        "cores": names,
        "families": families(),
        "activities": {activity.name.lower(): int(activity) for activity in Activity},
        "operators": [
            {"name": one.name, "kernel": one.kernel, "shape": one.shape, "line": one.line}
            for one in accountant.program.operators
        ],
        "steps": [
            {
                "label": f"{step.phase} {step.rows} at {step.first}",
                "begin": step.begin_ns - steps[0].begin_ns,
                "end": step.end_ns - steps[0].begin_ns,
            }
            for step in shown
        ],
        "spans": _spans(accountant, shown, steps[0].begin_ns),
        "totals": [_totals(account, accountant, names, limits) for account in accounts],
        "experts": _experts(accountant, steps),
    }


def _figures(accounts: list[Account]) -> list[list[str]]:
    found = []
    for account in accounts:
        phase, steps = account.steps[0].phase, len(account.steps)
        rows = sum(step.rows for step in account.steps)
        outside = account.outside.total()
        a_step = f"{outside / steps / 1e3:.0f} µs a step"
        found.append([f"{phase} tok/s", f"{rows / account.ns * 1e9:.1f}", f"{rows} rows in {steps} steps"])
        found.append([f"{phase} step", f"{account.ns / steps / 1e6:.3f} ms", "mean"])
        found.append([f"{phase} outside kernels", f"{outside / account.ns:.1%}", a_step])
    return found


def _shown(accountant: Accountant, steps: list[Step]) -> list[Step]:
    """The first steps of each phase, and of each one at least; prefill has half of the room if there is decode too."""
    shown: list[Step] = []
    left = MOST_SPANS
    phases = [[step for step in steps if step.phase == phase] for phase in (PREFILL, DECODE)]
    for phase, share in zip(phases, (2 if phases[1] else 1, 1), strict=True):
        room = left // share
        for step in phase:
            count = len(accountant.of(step.number))
            if step is not phase[0] and count > room:
                break
            shown.append(step)
            room, left = room - count, left - count
    return shown


def _spans(accountant: Accountant, shown: list[Step], origin: int) -> list[list[int]]:
    """Columns of the steps' spans: worker, activity, op, block, index, begin, ns, path.

    `path` is 0, or of a task on the critical path 1 + the number of the step."""
    parts: list[np.ndarray] = []
    for number, step in enumerate(shown, 1):
        spans = accountant.of(step.number)
        spans = spans[spans["what"] < Activity.JOIN]
        path = {(int(one.task["group"]), int(one.task["index"])) for one in accountant.path(step)}
        on_path = [
            what <= Activity.STOLEN and (group, index) in path
            for what, group, index in zip(*(spans[name].tolist() for name in ("what", "group", "index")), strict=True)
        ]
        columns = [spans[name] for name in ("worker", "what", "op", "block", "index")]
        columns += [spans["start_ns"] - origin, spans["end_ns"] - spans["start_ns"]]
        columns.append(number * np.array(on_path, int))
        parts.append(np.array(columns, np.int64).reshape(8, -1))
    return np.concatenate(parts, axis=1).tolist()


def _totals(account: Account, accountant: Accountant, names: list[str], limits: tuple[float, float]) -> dict[str, Any]:
    """The tables of one phase, in ns a step."""
    steps = len(account.steps)
    path, gaps, after = path_kinds(account, accountant.kind_of)
    return {
        "phase": account.steps[0].phase,
        "step": account.ns / steps,
        "kinds": [
            {"name": kind.name, "ns": total.kernel_ns / steps, "waited": total.waited_ns / steps}
            | {name: getattr(total, name) for name in COUNTS}
            | {"rate": total.bytes / total.kernel_ns, "flops": total.flops / total.kernel_ns / 1e3}
            | {"path": path[kind], "limit": _limit(total, limits)}
            for kind, total in sorted(account.kinds.items(), key=lambda item: -item[1].kernel_ns)
        ],
        "path": {"step": account.path_step.ns, "between": gaps, "after": after},
        "outside": {name: account.outside[name] / steps for name in OUTSIDE},
        "cores": [
            {"name": name, "waits": [[kind, ns / steps] for kind, ns in waits.most_common()]}
            | {part: times[part] / steps for part in ("kernel", *OUTSIDE)}
            for name, times, waits in zip(names, account.cores, account.waits, strict=True)
        ],
    }


def _limit(total: KindTotal, limits: tuple[float, float]) -> str:
    limit = total.limit(*limits)
    return f"{100 * limit[0]:.0f} % of {limit[1]}" if limit else ""


def _experts(accountant: Accountant, steps: list[Step]) -> dict[str, Any] | None:
    found = routing(steps)
    if not found:
        return None
    program = accountant.program
    return {
        "layers": [
            program.op_names[program.groups["op"][group]].rpartition(".")[0]
            for group in program.wakes["group"].tolist()
        ],
        "rows": found.rows.tolist(),
        "imbalance": [round(float(value), 3) for value in found.imbalance],
        "unused": found.unused.tolist(),
        "reuse": [None if np.isnan(value) else round(float(value), 4) for value in found.reuse],
    }
