"""The text of `ellm profile`."""

from __future__ import annotations

from collections import Counter

import numpy as np

from ellm.operators import OperatorKind
from ellm.profiling.account import OUTSIDE, Account, Accountant, KindTotal, median_ns, path_kinds
from ellm.profiling.experts import Routing

MEANINGS = {
    "prepare": "the step's tables",
    "start": "until a worker takes part",
    "schedule": "claiming, counting, publishing",
    "steal": "searching for tasks to steal",
    "wait": "nothing to do, awake",
    "park": "nothing to do, asleep",
    "end": "until the caller goes on",
}
LONGEST = 8  # waits shown


def lines(account: Account, accountant: Accountant, cores: list[int], read: float, matmul: float) -> list[str]:
    """The report on one phase. `read` and `matmul` are the machine's limits in bytes and operations a second."""
    return [
        *heading(account),
        *operator_lines(account, read, matmul),
        "",
        *outside_lines(account),
        "",
        *core_lines(account, cores),
        "",
        *wait_lines(account),
        "",
        *path_lines(account, accountant.kind_of),
    ]


def heading(account: Account) -> list[str]:
    """How many steps, and how much of their time is told of."""
    steps = account.steps
    rows = sum(step.rows for step in steps)
    several = f"{len(steps)} steps" if len(steps) > 1 else "1 step"
    text = f"{steps[0].phase.upper()}: {several}, {rows} rows, {_ms(account.ns)} ms in all"
    text += f", a step {median_ns(steps) / 1e6:.3f} ms (median); {account.accounted:.2%} of the time accounted for"
    return [text, *([f"{account.dropped} records were dropped: the rings were full"] if account.dropped else [])]


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
    if not total.bytes and not total.flops:
        return ""
    seconds = total.kernel_ns / 1e9
    size, flops = total.bytes / seconds, total.flops / seconds
    share, name = max((size / read, "read"), (flops / matmul, "matmul"))
    return f"{size / 1e9:>8.1f}{flops / 1e12:>9.3f}  {share:.0%} of {name}"


def outside_lines(account: Account) -> list[str]:
    """Where the time outside of kernels went, in microseconds a step."""
    steps = len(account.steps)
    found = [f"OUTSIDE OF KERNELS: {account.outside.total() / steps / 1e3:.0f} µs a step, mean of the cores"]
    for name in OUTSIDE:
        found.append(f"  {name:<10}{account.outside[name] / steps / 1e3:>10.0f} µs  {MEANINGS[name]}")
    return found


def core_lines(account: Account, cores: list[int]) -> list[str]:
    """What each core did, in ms."""
    names = ("kernel", *OUTSIDE)
    found = [f"{'CORES, ms':<14}" + "".join(f"{name:>10}" for name in names)]
    for core, times in zip(cores, account.cores, strict=True):
        found.append(f"core {core:<9}" + "".join(f"{_ms(times[name]):>10}" for name in names))
    return found


def wait_lines(account: Account) -> list[str]:
    """What the cores waited for: the kind of operator that the event published which they waited for."""
    waits: Counter[str] = Counter()
    for name, ns in [("the end of the step", account.ends_waited_ns), *_waits(account)]:
        waits[name] += round(ns)
    whole = waits.total()
    if not whole:
        return ["WAITS: none"]
    found = ["WAITS (idle, parked or searching, until the event that publishes)"]
    for name, ns in waits.most_common(LONGEST):
        found.append(f"  {name:<36}{_ms(ns):>10} ms{ns / whole:>7.0%}")
    return found


def _waits(account: Account) -> list[tuple[str, float]]:
    return [(kind.name, total.waited_ns) for kind, total in account.kinds.items()]


def path_lines(account: Account, kind_of: list[OperatorKind]) -> list[str]:
    """What the critical path of the median step consists of."""
    kinds, gaps, rest = path_kinds(account, kind_of)
    step = account.path_step
    handed = sum(link.waited for link in account.path)
    found = [
        f"CRITICAL PATH of step {step.number} ({step.ns / 1e3:.0f} µs): {len(account.path)} tasks "
        f"{kinds.total() / 1e3:.0f} µs, between them {gaps / 1e3:.0f} µs, after them {rest / 1e3:.0f} µs; "
        f"{handed} tasks waited for another core"
    ]
    for kind, ns in kinds.most_common(LONGEST):
        found.append(f"  {kind.name:<36}{ns / 1e3:>10.0f} µs{ns / step.ns:>7.1%}")
    return found


def expert_lines(routing: Routing) -> list[str]:
    """How evenly the rows of all steps were spread over the experts."""
    layers, experts = routing.rows.shape
    found = [
        f"EXPERTS: {layers} layers of {experts}; the busiest expert of a layer got "
        f"{routing.imbalance.min():.1f} to {routing.imbalance.max():.1f} times the mean, "
        f"{int(routing.unused.min())} to {int(routing.unused.max())} got no row"
    ]
    if not np.isnan(routing.reuse).any():
        found.append(f"{routing.reuse.mean():.0%} of a decoded token's experts were also those of the token before it")
    return found


def _ms(ns: float) -> str:
    return f"{ns / 1e6:.3f}"
