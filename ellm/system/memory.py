"""Memory with an address, anonymous or of a file, and how much of it there is."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ellm.system.errors import InputError

MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # named by the standard library since Python 3.13
_MBIND = {"x86_64": 237, "aarch64": 235}  # numbers of the system call
_PREFERRED = 1  # its policy MPOL_PREFERRED
_WORD = 8 * ctypes.sizeof(ctypes.c_ulong)
HUGE = 2 << 20  # bytes of a transparent huge page
_LIBC = ctypes.CDLL(None, use_errno=True)  # which, unlike mmap.madvise, lets other Python threads run meanwhile


class Region:
    """Bytes at an address."""

    def __init__(self, mapped: mmap.mmap):
        self._map = mapped
        self.size = len(mapped)
        self.array: np.ndarray = np.frombuffer(mapped, np.uint8)
        self.address: int = self.array.ctypes.data

    def close(self) -> None:
        """Unmap. The address must no longer be in use."""
        self.array = np.empty(0, np.uint8)
        self.address = 0
        self._map.close()


class FileMapping(Region):
    """Bytes of a file, shared with every process that maps them; a page that is written to becomes this one's own.

    The file is open, may be closed then, and must not become shorter. Raises InputError if it cannot be mapped.
    """

    def __init__(self, file: BinaryIO, offset: int, size: int):
        try:
            super().__init__(mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE | MAP_NORESERVE, offset=offset))
            if hasattr(mmap, "MADV_HUGEPAGE"):  # file systems that can will then read pages of that size
                self._map.madvise(mmap.MADV_HUGEPAGE)
        except (OSError, OverflowError, ValueError) as error:
            raise InputError(f"{file.name}: cannot be mapped: {error}") from error


class Mapping(Region):
    """A private anonymous mapping: virtual address space that gets a zeroed physical page where it is first touched.

    Raises InputError if the address space cannot be reserved.
    """

    def __init__(self, size: int, purpose: str, *, huge: bool = False):
        size = max(size, mmap.PAGESIZE)
        try:
            super().__init__(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE))
        except (OSError, OverflowError, ValueError) as error:
            raise InputError(f"cannot reserve {readable(size)} of address space for {purpose}: {error}") from error
        if huge and hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)

    def clear(self, begin: int = 0, end: int | None = None) -> None:
        """Give the physical pages between page boundaries back; every byte there reads as zero again."""
        self._advise(mmap.MADV_DONTNEED, begin, self.size if end is None else end)

    def advise_huge(self, huge: bool, begin: int = 0, end: int | None = None) -> None:
        """Have pages that are not there yet be huge ones where they can, or never, whatever the system's default."""
        if hasattr(mmap, "MADV_HUGEPAGE"):
            advice = mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE
            self._advise(advice, begin, self.size if end is None else end)

    def prefer(self, node: int, begin: int, end: int) -> None:
        """Have pages of [begin, end) that are not there yet in a NUMA node, as long as there is room.

        Nothing on an architecture whose number of the system call is not known here.
        """
        if (number := _MBIND.get(platform.machine())) is not None:
            mask = (ctypes.c_ulong * (node // _WORD + 1))()
            mask[node // _WORD] = 1 << node % _WORD
            address, length = ctypes.c_void_p(self.address + begin), ctypes.c_ulong(end - begin)
            _LIBC.syscall(
                ctypes.c_long(number),
                *(
                    address,
                    length,
                    ctypes.c_int(_PREFERRED),
                    mask,
                    ctypes.c_ulong(_WORD * len(mask) + 1),
                    ctypes.c_uint(0),
                ),
            )

    def _advise(self, advice: int, begin: int, end: int) -> None:
        address, length = ctypes.c_void_p(self.address + begin), ctypes.c_size_t(end - begin)
        if _LIBC.madvise(address, length, ctypes.c_int(advice)) and advice == mmap.MADV_DONTNEED:
            error = ctypes.get_errno()  # of huge pages: a kernel without them
            raise OSError(error, os.strerror(error))


def available() -> int:
    """Bytes that this process can still use: free and reclaimable memory, within the limit of its cgroup."""
    free = min(meminfo()["MemAvailable"], *(limit - used for limit, used in cgroup_limits()), 1 << 62)
    return max(free, 0)


def meminfo() -> dict[str, int]:
    """/proc/meminfo in bytes (the counts of huge pages as they are)."""
    values = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, value, *unit = line.replace(":", " ").split()
        values[name] = int(value) * (1024 if unit else 1)
    return values


def cgroup_limits(root: Path = Path("/")) -> list[tuple[int, int]]:
    """(limit, use) in bytes of this process's cgroup and of each above it, version 1 and 2.

    Cached files are not use: they make room when it is needed.
    """
    found = []
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top, limit_name, used_name = root / "sys/fs/cgroup", "memory.max", "memory.current"
        if controllers == "memory":
            top, limit_name, used_name = top / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        folder = top / path.strip("/")
        for level in (folder, *folder.parents):
            if not level.is_relative_to(top):
                break
            limit, used = _number(level / limit_name), _number(level / used_name)
            if limit is not None and used is not None:
                found.append((limit, used - _cached_files(level / "memory.stat")))
    return found


def _cached_files(path: Path) -> int:
    try:
        values = dict(line.split() for line in path.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    prefix = "total_" if "total_active_file" in values else ""  # version 1 counts the groups below in these
    return sum(int(values.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent, or the word "max"
        return None


def readable(size: float) -> str:
    """A size for people."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"
