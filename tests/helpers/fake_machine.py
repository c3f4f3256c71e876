"""A /sys as Linux shows it of a machine with several sockets, memory domains and last level caches."""

from pathlib import Path


def write_machine(root: Path, *, sockets: int, domains: int, caches: int, cores: int) -> Path:
    """Files of a machine of `sockets`, each of `domains` of `caches` of `cores`, numbered in this order."""
    everywhere = range(sockets * domains * caches * cores)
    for core in everywhere:
        cache = core // cores
        first = cache * cores
        cpu = root / f"sys/devices/system/cpu/cpu{core}"
        _write(cpu / "topology/physical_package_id", cache // caches // domains)
        _write(cpu / "topology/thread_siblings_list", core)
        for index, (level, size, shared) in enumerate(
            [(1, "48K", core), (2, "2048K", core), (3, "96M", f"{first}-{first + cores - 1}")]
        ):
            folder = cpu / f"cache/index{index}"
            for name, value in (("level", level), ("type", "Unified"), ("size", size), ("shared_cpu_list", shared)):
                _write(folder / name, value)
    size = caches * cores
    for node in range(sockets * domains):
        _write(root / f"sys/devices/system/node/node{node}/cpulist", f"{node * size}-{(node + 1) * size - 1}")
    return root


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")
