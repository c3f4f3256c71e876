"""The text of `ellm profile`."""

from __future__ import annotations

from collections import Counter

import numpy as np

from ellm.inspection.operator_kinds import OperatorKind
from ellm.profiling.account import OUTSIDE, Account, Accountant, KindTotal, median_ns, path_kinds
from ellm.profiling.experts import Routing

MEANINGS = {
    "prepare": "the step's tables",
    "start": "until a worker takes part",
    "schedule": "claiming, counting, publishing: the rest",
    "steal": "searching for tasks to steal",
    "wait": "nothing to do, awake",
    "park": "nothing to do, asleep",
    "end": "until the caller goes on",
}
LONGEST = 8  # waits, and kinds of a critical path, that are shown
LONGEST_OF_CORE = 3  # waits
SHORTEST_NS = 500  # what is less would be printed as 0.000 ms


def lines(account: Account, accountant: Accountant, names: list[str], read: float, matmul: float) -> list[str]:
    """The report on one phase. `read` and `matmul` are the machine's limits in bytes and operations a second."""
    return [
        heading(account),
        *operator_lines(account, read, matmul),
        "",
        *outside_lines(account),
        "",
        *core_lines(account, names),
        "",
        *wait_lines(account, names),
        "",
        *path_lines(account, accountant.kind_of),
    ]


def heading(account: Account) -> str:
    """How many steps, and how long they took."""
    steps = account.steps
    sizes = f"{several(len(steps), 'step')}, {several(sum(step.rows for step in steps), 'row')}"
    return f"{steps[0].phase.upper()}: {sizes}, {_ms(account.ns)} ms in all, a step {_ms(median_ns(steps))} ms (median)"


def operator_lines(account: Account, read: float, matmul: float) -> list[str]:
    """One line a kind of operator, by time, and one for what is not in kernels; the shares sum to what is accounted."""
    found = [
        f"{'operator':<34}{'calls':>7}{'tasks':>8}{'stolen':>8}{'ms':>10}{'share':>8}{'GB/s':>8}{'TFLOP/s':>9}  limit"
    ]
    for kind, total in sorted(account.kinds.items(), key=lambda item: -item[1].kernel_ns):
        found.append(
            f"{kind.name:<34}{total.calls:>7}{total.tasks:>8}{total.stolen:>8}{_ms(total.kernel_ns):>10}"
            f"{total.kernel_ns / account.ns:>8.1%}{_rates(total, read, matmul)}".rstrip()
        )
    outside = account.outside.total()
    found.append(f"{'outside of kernels':<57}{_ms(outside):>10}{outside / account.ns:>8.1%}")
    found.append(f"{'sum':<57}{_ms(account.kernel_ns + outside):>10}{account.accounted:>8.1%}")
    found.append(f"limits measured around the run: {read / 1e9:.1f} GB/s read, {matmul / 1e12:.3f} TFLOP/s bf16")
    return found


def _rates(total: KindTotal, read: float, matmul: float) -> str:
    """What the kernels reached, and its share of the limit that binds them; blank if they read and multiply nothing."""
    limit = total.limit(read, matmul)
    if limit is None:
        return ""
    share, name = limit
    return f"{total.bytes / total.kernel_ns:>8.1f}{total.flops / total.kernel_ns / 1e3:>9.3f}  {share:.0%} of {name}"


def outside_lines(account: Account) -> list[str]:
    """Where the time outside of kernels went, in microseconds a step."""
    steps = len(account.steps)
    found = [f"OUTSIDE OF KERNELS: {account.outside.total() / steps / 1e3:.0f} µs a step, mean of the cores"]
    for name in OUTSIDE:
        found.append(f"  {name:<10}{account.outside[name] / steps / 1e3:>10.0f} µs  {MEANINGS[name]}")
    if account.between_ns:
        found.append(f"Before each step, the engine took {account.between_ns / 1e3:.0f} µs more, not in these sums.")
    return found


def core_lines(account: Account, names: list[str]) -> list[str]:
    """What each core did, in ms."""
    parts = ("kernel", *OUTSIDE)
    found = [f"{'CORES, ms':<14}" + "".join(f"{part:>10}" for part in parts)]
    for name, times in zip(names, account.cores, strict=True):
        found.append(f"{name:<14}" + "".join(f"{_ms(times[part]):>10}" for part in parts))
    return found


def wait_lines(account: Account, names: list[str]) -> list[str]:
    """What the cores waited for: the kind of operator that the event published which they waited for."""
    waits = sum(account.waits, Counter())
    longest = [(name, ns) for name, ns in waits.most_common(LONGEST) if ns / len(names) >= SHORTEST_NS]
    if not longest:
        return ["WAITS: none"]
    found = ["WAITS (idle, parked or searching, until the event that publishes); below, the longest of each core in ms"]
    for name, ns in longest:
        found.append(f"  {name:<36}{_ms(ns / len(names)):>10} ms{ns / waits.total():>7.0%}")
    for worker, own in zip(names, account.waits, strict=True):
        most = [f"{name} {_ms(ns)}" for name, ns in own.most_common(LONGEST_OF_CORE) if ns >= SHORTEST_NS]
        found.append(f"  {worker}: {', '.join(most) or 'none'}")
    return found


def path_lines(account: Account, kind_of: list[OperatorKind]) -> list[str]:
    """What the critical path of the median step consists of."""
    kinds, gaps, rest = path_kinds(account, kind_of)
    step = account.path_step
    handed = sum(link.waited for link in account.path)
    found = [
        f"CRITICAL PATH of step {step.number} ({step.ns / 1e3:.0f} µs): {several(len(account.path), 'task')} "
        f"{kinds.total() / 1e3:.0f} µs, between them {gaps / 1e3:.0f} µs, after them {rest / 1e3:.0f} µs; "
        f"{several(handed, 'task')} waited for another core"
    ]
    for kind, ns in kinds.most_common(LONGEST):
        found.append(f"  {kind.name:<36}{ns / 1e3:>10.0f} µs{ns / step.ns:>7.1%}")
    return found


def expert_lines(routing: Routing) -> list[str]:
    """How evenly the rows of all steps were spread over the experts."""
    layers, experts = routing.rows.shape
    found = [
        f"EXPERTS: {several(layers, 'layer')} of {experts}; the busiest expert of a layer got "
        f"{_range(routing.imbalance, '.1f')} times the mean, {_range(routing.unused, 'd')} got no row"
    ]
    if not np.isnan(routing.reuse).any():
        found.append(f"{routing.reuse.mean():.0%} of a decoded token's experts were also those of the token before it")
    return found


def several(count: int, noun: str) -> str:
    """1 task, 2 tasks."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _range(values: np.ndarray, form: str) -> str:
    """The least and the most, or the one that they are."""
    low, high = format(values.min(), form), format(values.max(), form)
    return low if low == high else f"{low} to {high}"


def _ms(ns: float) -> str:
    return f"{ns / 1e6:.3f}"
