"""Who else is on this machine's cores, as /proc tells: other ellm processes, and whatever takes time.

`root` replaces / in tests.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ellm.scheduler.topology import ROOT, core_list

SECONDS = 0.3
WORKER = re.compile(r"ellm-\d+")  # what a pool calls its threads
STAT = re.compile(r"\d+ \((.*)\) (.*)", re.DOTALL)
USER, SYSTEM, LAST_CORE = 11, 12, 36  # fields of a thread's stat after its name (proc(5))


@dataclass(frozen=True)
class Thread:
    """A thread of another process: the clock ticks that it has run, and the core that it was on last."""

    pid: int
    name: str
    ticks: int
    core: int


@dataclass
class Neighbour:
    """Another process: how many cores' time it takes, on which cores, and its workers if it is an ellm."""

    pid: int
    name: str = ""
    share: float = 0.0
    cores: set[int] = field(default_factory=set)
    workers: int = 0
    worker_cores: set[int] = field(default_factory=set)  # that they may be on


def neighbours(root: Path = ROOT, seconds: float = SECONDS) -> list[Neighbour]:
    """The processes that run within the next `seconds`, and those with workers of ellm, the busiest first."""
    before = threads(root)
    time.sleep(seconds)
    found: dict[int, Neighbour] = {}
    for tid, thread in threads(root).items():
        one = found.setdefault(thread.pid, Neighbour(thread.pid))
        if tid == thread.pid:
            one.name = thread.name
        ran = thread.ticks - before[tid].ticks if tid in before else 0
        if ran > 0:
            one.share += ran / os.sysconf("SC_CLK_TCK") / seconds
            one.cores.add(thread.core)
        if WORKER.fullmatch(thread.name):
            one.workers += 1
            one.worker_cores.update(_allowed(root, thread.pid, tid))
    return sorted((one for one in found.values() if one.share or one.workers), key=lambda one: (-one.share, one.pid))


def threads(root: Path = ROOT) -> dict[int, Thread]:
    """The threads of all other processes, by number."""
    return {tid: thread for tid, thread in _threads(root) if thread.pid != os.getpid()}


def _threads(root: Path) -> Iterator[tuple[int, Thread]]:
    for path in (root / "proc").glob("[0-9]*/task/[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            found = STAT.match(path.read_text(errors="replace"))
            if found:
                fields = found[2].split()
                ticks = int(fields[USER]) + int(fields[SYSTEM])
                thread = Thread(int(path.parts[-4]), found[1], ticks, int(fields[LAST_CORE]))
                yield int(path.parts[-2]), thread


def _allowed(root: Path, pid: int, tid: int) -> list[int]:
    """The cores that a thread may be on; none if it has ended."""
    with contextlib.suppress(OSError):
        text = (root / f"proc/{pid}/task/{tid}/status").read_text(errors="replace")
        return core_list("".join(re.findall(r"^Cpus_allowed_list:\s*(\S+)$", text, re.MULTILINE)))
    return []
