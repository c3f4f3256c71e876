"""Which instruction sets this machine, this kernel and this build offer, and which one to use."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from ellm.system.errors import InputError

ISAS = ("amx", "avx512", "avx512f", "avx2", "portable")
"""Best first. CPUs from Skylake to Ice Lake have AVX-512 without bf16, avx512f."""

_AVX2 = ("avx2", "fma", "f16c", "bmi2")
_AVX512F = (*_AVX2, "avx512f", "avx512bw", "avx512vl", "avx512dq")
_AVX512 = (*_AVX512F, "avx512vbmi", "avx512_bf16", "avx512_vnni")
FLAGS = {
    "amx": (*_AVX512, "amx_tile", "amx_bf16", "amx_int8"),
    "avx512": _AVX512,
    "avx512f": _AVX512F,
    "avx2": _AVX2,
    "portable": (),
}
"""Names in /proc/cpuinfo of the CPU features that each ISA's build may use."""

ROW_BLOCK = {"amx": 256, "avx512": 256, "avx512f": 64, "avx2": 64, "portable": 64}
"""Rows of a step that a task multiplies with its columns of weights. AMX multiplies a byte of weights with 64 rows in
less time than a core needs to read it from memory or the last level cache; AVX-512 expands bf16 in 12 bits once a
block."""

ROW_UNIT = {"amx": 256, "avx512": 64, "avx512f": 64, "avx2": 64, "portable": 64}
"""Rows that steps gain at a time while streams wait: as few as are multiplied at about the speed of many."""

_SYS_ARCH_PRCTL = 158
_ARCH_REQ_XCOMP_PERM = 0x1023
_XFEATURE_XTILEDATA = 18


@dataclass(frozen=True)
class Choice:
    """The ISA to use and why, in a few words."""

    isa: str
    reason: str


@dataclass(frozen=True)
class Table:
    """One ISA's kernels: the address of each `void (const ellm_task *)` by name.

    `enter` and `leave` are addresses of `void (void)`, called by each worker when it starts and stops working on steps.
    """

    isa: str
    addresses: dict[str, int]
    enter: int
    leave: int


@functools.cache
def available() -> dict[str, str | None]:
    """Per ISA None if it can be used, else why not. On a CPU with AMX, asks the kernel for permission to use it.

    Call this before threads are started: the permission holds for threads that are started later.
    """
    flags = cpu_flags()
    return {isa: _obstacle(isa, flags) for isa in ISAS}


def choose(name: str | None = None) -> Choice:
    """The ISA called `name`, else the one in ELLM_ISA, else the best. Raises InputError if it cannot be used."""
    origin = "asked for"
    if name is None and os.environ.get("ELLM_ISA"):
        name, origin = os.environ["ELLM_ISA"], "ELLM_ISA"
    usable = available()
    if name is None:
        isa = next(isa for isa in ISAS if usable[isa] is None)
        refused = [f"{better}: {usable[better]}" for better in ISAS[: ISAS.index(isa)]]
        return Choice(isa, "; ".join(["best available", *refused]))
    if name not in ISAS:
        raise InputError(f"ISA {name!r} ({origin}) is unknown: choose one of {', '.join(ISAS)}")
    if usable[name] is not None:
        raise InputError(f"ISA {name!r} ({origin}) cannot be used here: {usable[name]}")
    return Choice(name, origin)


def table(isa: str) -> Table:
    """The kernels of an ISA that `choose` returned. Only now is its extension imported."""
    module = importlib.import_module(f"ellm.kernels._{isa}")
    return Table(isa, dict(module.ADDRESSES), module.ENTER, module.LEAVE)


def fetches(isa: str) -> str:
    """Into which cache the kernels of an ISA fetch what they read next, "L1" or "L2", as fetch.h has it on this CPU."""
    return str(importlib.import_module(f"ellm.kernels._{isa}").FETCHES)


def cpu_flags() -> frozenset[str]:
    """CPU features as /proc/cpuinfo names them; empty where there is none or the CPU is not x86-64."""
    if platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists():
        return frozenset()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return frozenset(next((line for line in lines if line.startswith("flags")), ":").split(":")[1].split())


def _obstacle(isa: str, flags: frozenset[str]) -> str | None:
    missing = [flag for flag in FLAGS[isa] if flag not in flags]
    if missing:
        return f"this CPU lacks {', '.join(missing)}"
    if importlib.util.find_spec(f"ellm.kernels._{isa}") is None:
        return "this build lacks it (the C compiler did not know its flags)"
    if isa == "amx":
        return _amx_refusal()
    return None


def _amx_refusal() -> str | None:
    """Ask for permission to use the tile registers (Linux 5.16 and later)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) == 0:
        return None
    return f"the operating system refused permission for AMX: {os.strerror(ctypes.get_errno())}"
