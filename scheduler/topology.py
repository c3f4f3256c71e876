"""The cores that this process may use, and how near they are to each other.

Everything comes from the affinity mask, /proc and /sys. `root` replaces / in tests. What a kernel does not tell is
taken as absent: no siblings, one socket, one NUMA node, no quota.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ellm.scheduler.crews import Crews
from ellm.system.errors import InputError

ROOT = Path("/")
BUSY_WINDOW = 0.05
NOBODY: Mapping[int, int] = MappingProxyType({})


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


def choose_cores(
    threads: int | None,
    root: Path = ROOT,
    *,
    users: Mapping[int, int] = NOBODY,
    busy: Set[int] = frozenset(),
) -> list[int]:
    """Cores for so many workers: one per physical core first, sorted by NUMA node.

    None: as many as there are physical cores, but for those that `spare` leaves to Python, and quota. Of physical
    cores, those come first that fewer have in use, then those that are not busy. With None, those in use by nobody are
    all that there are, unless there is none. Raises InputError if the affinity mask or the cgroup quota does not allow
    so many.
    """
    allowed = allowed_cores()
    physical = physical_cores(allowed, root)
    quota = cgroup_quota(root)
    most = len(allowed) if quota is None else max(1, int(quota))
    used = {core: sum(users.get(one, 0) for one in siblings(core, root)) for core in allowed}
    rank = {core: (used[core], not busy.isdisjoint(siblings(core, root)), core) for core in allowed}

    nodes = node_of(root)

    def best(cores: list[int], count: int) -> list[int]:
        chosen = sorted(cores, key=rank.__getitem__)[:count]
        return sorted(chosen, key=lambda core: (nodes.get(core, 0), core))

    if threads is None:
        free = [core for core in physical if not used[core]] or physical
        return best(free, min(most, len(free) - spare(len(free))))
    if not 1 <= threads <= min(len(allowed), most):
        limit = f"the affinity mask allows {len(allowed)} cores"
        limit += "" if quota is None else f", the cgroup quota {quota:g}"
        raise InputError(f"threads: {threads} asked for, but {limit}")
    rest = best([core for core in allowed if core not in physical], max(threads - len(physical), 0))
    return best(physical, threads) + rest


def spare(cores: int) -> int:
    """Of so many physical cores those that workers leave to Python, unless all are asked for: where it costs little."""
    return 0 if cores < 16 else 1 if cores < 64 else 2


def online_cores(root: Path = ROOT) -> frozenset[int]:
    """The logical cores of the machine that are on."""
    return frozenset(core_list(_read(root / "sys/devices/system/cpu/online") or ""))


def busy_cores(root: Path = ROOT, seconds: float = BUSY_WINDOW) -> frozenset[int]:
    """Logical cores that work for more than half of the next `seconds`, for whomever."""
    before = _worked(root)
    time.sleep(seconds)
    ticks = seconds * os.sysconf("SC_CLK_TCK") / 2
    return frozenset(core for core, worked in _worked(root).items() if worked - before.get(core, worked) > ticks)


def _worked(root: Path) -> dict[int, int]:
    """Clock ticks that each logical core has not been idle."""
    lines = re.findall(r"^cpu(\d+) (.*)$", _read(root / "proc/stat") or "", re.MULTILINE)
    each = {int(core): [int(ticks) for ticks in rest.split()] for core, rest in lines}
    return {core: sum(ticks[:3] + ticks[5:8]) for core, ticks in each.items()}  # without idle, iowait and guests again


def caches(core: int, root: Path = ROOT) -> list[Cache]:
    """The caches of a core, nearest first."""
    found = []
    for folder in sorted((root / f"sys/devices/system/cpu/cpu{core}/cache").glob("index*")):
        level, kind, size, cores = (_read(folder / name) for name in ("level", "type", "size", "shared_cpu_list"))
        if level and kind and size and cores:
            found.append(Cache(int(level), kind, _bytes(size), frozenset(core_list(cores))))
    return sorted(found, key=lambda cache: cache.level)


def l2_bytes(core: int, root: Path = ROOT) -> int:
    """The second level cache that a core has for itself; 0: none is told of."""
    return next((cache.size // len(cache.cores) for cache in caches(core, root) if cache.level == 2), 0)


def numa_nodes(root: Path = ROOT) -> dict[int, list[int]]:
    """NUMA node -> its logical cores."""
    nodes = {}
    for folder in (root / "sys/devices/system/node").glob("node[0-9]*"):
        nodes[int(folder.name[4:])] = core_list(_read(folder / "cpulist") or "")
    return dict(sorted(nodes.items())) or {0: allowed_cores()}


def domains(cores: list[int], root: Path = ROOT) -> list[int]:
    """The NUMA nodes of workers on these cores, to which the blocks of a sequence's positions are dealt in turn."""
    return [node for node, members in numa_nodes(root).items() if set(cores) & set(members)]


def huge_pages(root: Path = ROOT) -> dict[str, str | int]:
    """The transparent huge page mode in force and the number of reserved huge pages of each size in bytes."""
    modes = _read(root / "sys/kernel/mm/transparent_hugepage/enabled") or "[never]"
    found: dict[str, str | int] = {"transparent": modes[modes.index("[") + 1 : modes.index("]")]}
    for folder in sorted((root / "sys/kernel/mm/hugepages").glob("hugepages-*kB")):
        found[str(_bytes(folder.name[len("hugepages-") : -1]))] = int(_read(folder / "nr_hugepages") or 0)
    return found


def node_of(root: Path = ROOT) -> dict[int, int]:
    """Logical core -> its NUMA node."""
    return {core: node for node, members in numa_nodes(root).items() for core in members}


def crews(cores: list[int], root: Path = ROOT) -> Crews:
    """Workers on these cores in crews of one NUMA node and last level cache; near is by node, then by cache."""
    nodes = node_of(root)
    shared = {core: next((cache.cores for cache in reversed(caches(core, root))), None) for core in set(cores)}
    far = {
        node: (_read(root / f"sys/devices/system/node/node{node}/distance") or "").split() for node in numa_nodes(root)
    }
    order = {node: place for place, node in enumerate(numa_nodes(root))}

    def distance(a: int, b: int) -> tuple[int, bool]:
        from_node, to_node = nodes.get(cores[a], 0), nodes.get(cores[b], 0)
        told = far.get(from_node, [])[order.get(to_node, 0) :][:1]
        apart = int(told[0]) if told else 10 + 10 * (from_node != to_node)
        return apart, shared[cores[a]] != shared[cores[b]]

    return Crews.of([(nodes.get(core, 0), shared[core]) for core in cores], distance)


def core_list(text: str) -> list[int]:
    """The cores of a list as the kernel writes it: `0-3,8`."""
    found: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def core_ranges(cores: list[int]) -> str:
    """The opposite: [0, 1, 2, 5] as "0-2,5"."""
    parts: list[list[int]] = []
    for core in cores:
        if parts and core == parts[-1][-1] + 1:
            parts[-1].append(core)
        else:
            parts.append([core])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _bytes(text: str) -> int:
    units = {"K": 1 << 10, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
