"""The data of the timeline page."""

from __future__ import annotations

from typing import Any

import numpy as np

from ellm.profiling.account import OUTSIDE, Account, Accountant, path_kinds
from ellm.profiling.dependencies import StepOrder, critical_path, of_step
from ellm.profiling.experts import routing
from ellm.profiling.recorder import Step
from ellm.scheduler.trace import Activity

MOST_EVENTS = 60_000  # drawn; steps beyond that are left out, and the page says so
COUNTS = ("calls", "tasks", "stolen")


def data(
    accountant: Accountant, accounts: list[Account], steps: list[Step], cores: list[int], model: str
) -> dict[str, Any]:
    """What the page shows: figures, a timeline of the first steps, totals by operator and core, the experts."""
    shown, rows = _timeline(accountant, steps)
    return {
        "name": model,
        "figures": [*_figures(accounts), ["steps drawn", f"{len(shown)} of {len(steps)}", "the first ones"]],
        "cores": cores,
        "activities": {activity.name.lower(): int(activity) for activity in Activity},
        "operators": [
            {"name": one["name"], "kernel": one["kernel"], "shape": one["shape"], "line": one["line"]}
            for one in accountant.program.meta["operators"]
        ],
        "steps": [
            {
                "label": f"{step.phase} {step.rows} at {step.first}",
                "begin": step.begin_ns - steps[0].begin_ns,
                "end": step.end_ns - steps[0].begin_ns,
            }
            for step in shown
        ],
        "events": rows,
        "totals": [_totals(account, accountant, cores) for account in accounts],
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


def _timeline(accountant: Accountant, steps: list[Step]) -> tuple[list[Step], list[list[int]]]:
    """The first steps, and columns of their events: worker, activity, op, block, index, begin, ns, path.

    `path` is 0, or of a task on the critical path 1 + the number of the step."""
    shown: list[Step] = []
    parts: list[np.ndarray] = []
    count = 0
    for step in steps:
        events = accountant.events[accountant.events["step"] == step.number]
        events = events[events["what"] < Activity.JOIN]
        count += len(events)
        if shown and count > MOST_EVENTS:
            break
        shown.append(step)
        order = StepOrder(accountant.dependencies, of_step(events, step.number))
        path = {(int(one.task["group"]), int(one.task["index"])) for one in critical_path(order, step.begin_ns)}
        on_path = [
            what <= Activity.STOLEN and (group, index) in path
            for what, group, index in zip(*(events[name].tolist() for name in ("what", "group", "index")), strict=True)
        ]
        columns = [events[name] for name in ("worker", "what", "op", "block", "index")]
        columns += [events["start_ns"] - steps[0].begin_ns, events["end_ns"] - events["start_ns"]]
        columns.append(len(shown) * np.array(on_path, int))
        parts.append(np.array(columns, np.int64).reshape(8, -1))
    return shown, np.concatenate(parts, axis=1).tolist()


def _totals(account: Account, accountant: Accountant, cores: list[int]) -> dict[str, Any]:
    """The tables of one phase, in ns a step."""
    steps = len(account.steps)
    path, gaps, after = path_kinds(account, accountant.kind_of)
    return {
        "phase": account.steps[0].phase,
        "step": account.ns / steps,
        "kinds": [
            {"name": kind.name, "kernel": kind.kernel, "ns": total.kernel_ns / steps, "waited": total.waited_ns / steps}
            | {name: getattr(total, name) for name in COUNTS}
            | {"rate": total.bytes / total.kernel_ns, "flops": total.flops / total.kernel_ns / 1e3}
            | {"path": path[kind]}
            for kind, total in sorted(account.kinds.items(), key=lambda item: -item[1].kernel_ns)
        ],
        "path": {"step": account.path_step.ns, "between": gaps, "after": after},
        "outside": {name: account.outside[name] / steps for name in OUTSIDE},
        "cores": [
            {"core": core} | {name: times[name] / steps for name in ("kernel", *OUTSIDE)}
            for core, times in zip(cores, account.cores, strict=True)
        ],
    }


def _experts(accountant: Accountant, steps: list[Step]) -> dict[str, Any] | None:
    found = routing(steps)
    if not found:
        return None
    program = accountant.program
    return {
        "layers": [
            program.op_names[program.groups["op"][group]].removesuffix(".dispatch")
            for group in program.wakes["group"].tolist()
        ],
        "rows": found.rows.tolist(),
        "imbalance": [round(float(value), 3) for value in found.imbalance],
        "unused": found.unused.tolist(),
        "reuse": [None if np.isnan(value) else round(float(value), 4) for value in found.reuse],
    }
