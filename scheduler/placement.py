"""On which cores the workers of a pool run, and why."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ellm.scheduler import claims, topology
from ellm.scheduler.claims import Claim, Claimed
from ellm.scheduler.topology import ROOT
from ellm.system.errors import InputError

AUTO, NONE = "auto", "none"
NAMED = 3  # processes named in a line
SPIN_NS = 30_000  # about what waking a sleeper costs
LINGER_NS = 5_000_000  # more than Python takes between two steps
ALWAYS_NS = 1 << 62


@dataclass(frozen=True)
class Placement:
    """One core a worker. Not `pinned`, they are those that it would have, and the operating system chooses."""

    cores: list[int]
    pinned: bool = True
    reason: str = "asked for"
    owned: bool = False  # a physical core for each worker, without a quota or another ellm process's worker on it
    spare: bool = False  # there are physical cores besides
    claim: Claim = field(default_factory=lambda: Claim(None, []))

    @property
    def names(self) -> list[str]:
        """What each worker is called where cores are meant."""
        return [f"core {core}" if self.pinned else f"worker {worker}" for worker, core in enumerate(self.cores)]

    @property
    def spin_ns(self) -> int:
        """How long a worker watches within a step before it sleeps: for ever if nobody gains by its sleep."""
        return ALWAYS_NS if self.owned else SPIN_NS

    @property
    def linger_ns(self) -> int:
        """The same between two steps, when Python needs a core."""
        return LINGER_NS if self.owned and self.spare else SPIN_NS

    @property
    def waiting(self) -> str:
        """What a worker does that has nothing to do."""
        after = {ALWAYS_NS: "watches", LINGER_NS: "sleeps after 5 ms", SPIN_NS: "sleeps after 30 us"}
        return f"a worker {after[self.spin_ns]} in a step, {after[self.linger_ns]} between steps"

    def settle(self, worker: int) -> None:
        """Put the calling thread where this worker is: what it touches first will lie in that core's memory."""
        if self.pinned:
            os.sched_setaffinity(0, {self.cores[worker]})

    def __str__(self) -> str:
        count = f"{len(self.cores)} thread{'s' * (len(self.cores) > 1)}"
        cores = f"core{'s' * (len(self.cores) > 1)} {topology.core_ranges(self.cores)}" if self.pinned else "any core"
        return f"{count} on {cores} ({self.reason})"


def place(threads: int | None, pin: str = AUTO, root: Path = ROOT) -> Placement:
    """Cores for so many workers, by default one per physical core that the quota allows.

    `pin` "auto": the cores that no other ellm process of this user has claimed, the idle ones first; by default so many
    workers as there are of them, or as if alone where there are none. "none": the workers are not pinned. Else their
    cores: "0-3,8". Raises InputError if the affinity mask or the quota does not allow this.
    """
    cores = check(threads, pin, root)
    if pin == NONE:
        return Placement(cores, False, "not pinned, as asked for")
    folder = claims.folder()
    if pin != AUTO:
        with claims.door(folder):
            others = claims.claimed(folder)
            reason = "asked for" + shared(cores, others, root)
            return Placement(cores, True, reason, *alone(cores, others, root), Claim(folder, cores))
    lone = cores
    physical = len(topology.physical_cores(topology.allowed_cores(), root))
    choice = len(lone) < physical - topology.spare(physical)
    busy = topology.busy_cores(root) if choice else frozenset()
    with claims.door(folder):
        others = claims.claimed(folder)
        users = Counter(core for one in others for core in one.cores)
        cores = topology.choose_cores(threads, root, users=users, busy=busy)
        reason = why(threads, cores, lone, others, root) + ", the idlest" * choice + shared(cores, others, root)
        return Placement(cores, True, reason, *alone(cores, others, root), Claim(folder, cores))


def alone(cores: list[int], others: list[Claimed], root: Path = ROOT) -> tuple[bool, bool]:
    """Whether workers on these cores own them, and whether there are physical cores besides."""
    physical = [topology.siblings(core, root) for core in cores]
    near = frozenset().union(*physical)
    taken = frozenset().union(*(one.cores for one in others))
    owned = len(set(physical)) == len(cores) and not near & taken and topology.cgroup_quota(root) is None
    return owned, not near.issuperset(topology.allowed_cores())


def check(threads: int | None, pin: str, root: Path = ROOT) -> list[int]:
    """The cores if no other process were here. Raises InputError as `place` does, which claims them."""
    if not isinstance(pin, str):
        raise InputError(f"pin must be auto, none or a list of cores such as 0-3,8, not {pin!r}")
    return topology.choose_cores(threads, root) if pin in (AUTO, NONE) else listed(pin, threads, root)


def listed(text: str, threads: int | None, root: Path = ROOT) -> list[int]:
    """The cores of a list such as "0-3,8", the first `threads` of them. Raises InputError."""
    if not re.fullmatch(r"[0-9]{1,6}(-[0-9]{1,6})?(,[0-9]{1,6}(-[0-9]{1,6})?)*", text):
        raise InputError(f"pin: {text!r} is neither auto, none nor a list of cores such as 0-3,8")
    cores, allowed = topology.core_list(text), topology.allowed_cores()
    outside = sorted(set(cores) - set(allowed))
    if outside or not cores:
        mask = f"the affinity mask has {topology.core_ranges(allowed)}"
        raise InputError(f"pin: {text}: " + (f"core {outside[0]} cannot be used, {mask}" if outside else "no core"))
    twice = [core for core, times in Counter(cores).items() if times > 1]
    if twice:
        raise InputError(f"pin: {text}: core {twice[0]} is named twice")
    if threads is not None and threads > len(cores):
        raise InputError(f"threads: {threads} asked for, but pin: {text} names {len(cores)}")
    topology.choose_cores(len(cores) if threads is None else threads, root)  # what mask and quota allow
    return cores[:threads]


def why(threads: int | None, cores: list[int], lone: list[int], others: list[Claimed], root: Path = ROOT) -> str:
    """Why there are so many workers, given the cores that they would have if alone."""
    allowed = topology.allowed_cores()
    if threads is not None:
        return "asked for"
    if len(cores) < len(lone):
        return f"the others are used by {processes(others)}"
    physical = len(topology.physical_cores(allowed, root))
    spare = topology.spare(physical)
    if len(lone) < physical - spare:
        return f"the cgroup quota is {topology.cgroup_quota(root):g}"
    kept = f" but {spare} for Python" if spare else ""
    return f"every physical core{kept}" + " of the affinity mask" * (set(allowed) < topology.online_cores(root))


def shared(cores: Iterable[int], others: list[Claimed], root: Path = ROOT) -> str:
    """Who else has claimed these cores, or what they share a physical core with."""
    near = frozenset().union(*(topology.siblings(core, root) for core in cores))
    also = [one for one in others if one.cores & near]
    return f", shared with {processes(also)}" if also else ""


def processes(others: list[Claimed]) -> str:
    """The processes that have made these claims."""
    pids = sorted({one.pid for one in others})
    if pids == [os.getpid()]:
        return "this process"
    named = ", ".join(map(str, pids[:NAMED])) + f" and {len(pids) - NAMED} more" * (len(pids) > NAMED)
    return f"ellm process{'es' * (len(pids) > 1)} {named}"
