"""The cores that this process may use, and how near they are to each other.

Everything comes from the affinity mask, /proc and /sys. `root` replaces / in tests. What a kernel does not tell is
taken as absent: no siblings, one socket, one NUMA node, no quota.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ellm.system.errors import InputError

ROOT = Path("/")


@dataclass(frozen=True)
class Cache:
    """One cache as seen by one core."""

    level: int
    kind: str  # Data, Instruction or Unified
    size: int  # bytes
    cores: frozenset[int]  # logical cores that share it


def allowed_cores() -> list[int]:
    """Logical cores in the affinity mask of this process, ascending."""
    return sorted(os.sched_getaffinity(0))


def siblings(core: int, root: Path = ROOT) -> frozenset[int]:
    """The logical cores on the same physical core, this one included."""
    text = _read(root / f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    if text:
        return frozenset(core_list(text))
    first = [cache.cores for cache in caches(core, root) if cache.level == 1]
    return first[0] if first else frozenset([core])


def socket(core: int, root: Path = ROOT) -> int:
    """The number of a core's socket."""
    return int(_read(root / f"sys/devices/system/cpu/cpu{core}/topology/physical_package_id") or 0)


def physical_cores(allowed: list[int], root: Path = ROOT) -> list[int]:
    """The first allowed logical core of each physical core."""
    found: list[int] = []
    taken: set[int] = set()
    for core in allowed:
        if core not in taken:
            found.append(core)
            taken |= siblings(core, root)
    return found


def cgroup_quota(root: Path = ROOT) -> float | None:
    """CPUs' worth of time that the cgroups of this process allow (version 1 and 2); None: no limit."""
    quotas = []
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            tops = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif "cpu" in controllers.split(","):
            tops = [root / "sys/fs/cgroup" / name for name in ("cpu", controllers)]
        else:
            continue
        for top in tops:
            folder = top / path.strip("/")
            # In a container the path may be that of the host: what is mounted then is the container's own group.
            levels = [level for level in (folder, *folder.parents) if level.is_relative_to(top)]
            quotas += [quota for level in levels if (quota := _quota(level)) is not None]
    return min(quotas, default=None)


def _quota(folder: Path) -> float | None:
    version2 = (_read(folder / "cpu.max") or "").split()
    if len(version2) == 2 and version2[0] != "max":
        return int(version2[0]) / int(version2[1])
    quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    if quota and period and int(quota) > 0:
        return int(quota) / int(period)
    return None


def choose_cores(threads: int | None, root: Path = ROOT) -> list[int]:
    """Cores for so many workers: one per physical core first. None: as many as there are physical cores and quota.

    Raises InputError if the affinity mask or the cgroup quota does not allow so many.
    """
    allowed = allowed_cores()
    physical = physical_cores(allowed, root)
    quota = cgroup_quota(root)
    time = len(allowed) if quota is None else max(1, int(quota))
    if threads is None:
        return physical[:time]
    if not 1 <= threads <= min(len(allowed), time):
        limit = f"the affinity mask allows {len(allowed)} cores"
        limit += "" if quota is None else f", the cgroup quota {quota:g}"
        raise InputError(f"threads: {threads} asked for, but {limit}")
    return (physical + [core for core in allowed if core not in physical])[:threads]


def caches(core: int, root: Path = ROOT) -> list[Cache]:
    """The caches of a core, nearest first."""
    found = []
    for folder in sorted((root / f"sys/devices/system/cpu/cpu{core}/cache").glob("index*")):
        level, kind, size, cores = (_read(folder / name) for name in ("level", "type", "size", "shared_cpu_list"))
        if level and kind and size and cores:
            found.append(Cache(int(level), kind, _bytes(size), frozenset(core_list(cores))))
    return sorted(found, key=lambda cache: cache.level)


def numa_nodes(root: Path = ROOT) -> dict[int, list[int]]:
    """NUMA node -> its logical cores."""
    nodes = {}
    for folder in (root / "sys/devices/system/node").glob("node[0-9]*"):
        nodes[int(folder.name[4:])] = core_list(_read(folder / "cpulist") or "")
    return dict(sorted(nodes.items())) or {0: allowed_cores()}


def huge_pages(root: Path = ROOT) -> dict[str, str | int]:
    """The transparent huge page mode in force and the number of reserved huge pages of each size in bytes."""
    modes = _read(root / "sys/kernel/mm/transparent_hugepage/enabled") or "[never]"
    found: dict[str, str | int] = {"transparent": modes[modes.index("[") + 1 : modes.index("]")]}
    for folder in sorted((root / "sys/kernel/mm/hugepages").glob("hugepages-*kB")):
        found[str(_bytes(folder.name[len("hugepages-") : -1]))] = int(_read(folder / "nr_hugepages") or 0)
    return found


def nearest_first(cores: list[int], root: Path = ROOT) -> list[list[int]]:
    """For each worker the others by distance: shared cache, NUMA node, the rest; ties from the next one onwards."""
    node_of = {core: node for node, members in numa_nodes(root).items() for core in members}
    near = {core: caches(core, root) for core in set(cores)}

    def distance(a: int, b: int) -> int:
        levels = [cache.level for cache in near[a] if b in cache.cores]
        return min(levels, default=8 + (node_of.get(a) != node_of.get(b)))

    count = len(cores)
    return [
        sorted((v for v in range(count) if v != w), key=lambda v: (distance(cores[w], cores[v]), (v - w) % count))
        for w in range(count)
    ]


def core_list(text: str) -> list[int]:
    """The cores of a list as the kernel writes it: `0-3,8`."""
    found: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _bytes(text: str) -> int:
    units = {"K": 1 << 10, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
