"""A /sys and /proc as Linux shows them of a machine that is not this one."""

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


def machine(root: Path, files: dict[str, str]) -> Path:
    """These files under `root`, which is returned."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def eight_threads(root: Path) -> Path:
    """Four cores with two threads each, 0 and 4 on the first, two of them to an L3 cache and a NUMA node."""
    files = {}
    for cpu in range(8):
        pair, half = cpu % 4, cpu % 4 // 2
        folder = f"sys/devices/system/cpu/cpu{cpu}"
        files[f"{folder}/topology/thread_siblings_list"] = f"{pair},{pair + 4}"
        for index, level, size, shared in (
            (0, 1, "48K", f"{pair},{pair + 4}"),
            (1, 3, "32M", f"{2 * half}-{2 * half + 1},{2 * half + 4}-{2 * half + 5}"),
        ):
            cache = f"{folder}/cache/index{index}"
            files |= {f"{cache}/level": str(level), f"{cache}/type": "Unified", f"{cache}/size": size}
            files[f"{cache}/shared_cpu_list"] = shared
    for node in (0, 1):
        cores = f"{2 * node}-{2 * node + 1},{2 * node + 4}-{2 * node + 5}"
        files[f"sys/devices/system/node/node{node}/cpulist"] = cores
    return machine(root, files)
