"""Descriptions of machines: TOML files with one figure a line, the unit in its name.

Some come with ellm (`known`), `ellm doctor --save` writes one of the machine at hand. Rates per core are those that the
kernels reach, not what the silicon could do.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from ellm.scheduler.crews import Crews
from ellm.scheduler.placement import ALWAYS_NS, LINGER_NS, SPIN_NS
from ellm.scheduler.simulate import Workers
from ellm.scheduler.topology import spare
from ellm.system.errors import InputError

FOLDER = Path(__file__).with_name("descriptions")


def _figure(section: str, least: float, most: float) -> Any:
    return field(metadata={"section": section, "least": least, "most": most})


@dataclass(frozen=True)
class Machine:
    """A machine. Fields are called as in the file; sockets, domains and caches hold equal shares of the cores."""

    name: str
    sockets: int = _figure("cores", 1, 16)
    cores_per_socket: int = _figure("cores", 1, 512)
    domains_per_socket: int = _figure("cores", 1, 64)  # NUMA domains
    caches_per_socket: int = _figure("cores", 1, 1024)  # last level caches
    capacity_gb: float = _figure("memory", 0.1, 1e5)
    read_gb_per_s_per_core: float = _figure("memory", 0.1, 1000)
    read_gb_per_s_per_domain: float = _figure("memory", 0.1, 10_000)
    remote_read_gb_per_s_per_core: float = _figure("memory", 0.1, 1000)  # from another domain
    l2_kib_per_core: float = _figure("caches", 0, 1 << 18)
    llc_mib_per_cache: float = _figure("caches", 0, 1 << 16)
    llc_read_gb_per_s_per_core: float = _figure("caches", 0.1, 1000)
    amx_bf16_tflops_per_core: float = _figure("compute", 0, 100)  # 0: it has no AMX
    vector_bf16_tflops_per_core: float = _figure("compute", 0.0001, 100)
    expand_fp8_gb_per_s_per_core: float = _figure("compute", 0.01, 1000)  # of packed weights, to bf16
    expand_mxfp4_gb_per_s_per_core: float = _figure("compute", 0.01, 1000)
    softmax_gelements_per_s_per_core: float = _figure("compute", 0.001, 1000)  # scores of attention
    row_gelements_per_s_per_core: float = _figure("compute", 0.001, 1000)  # f32 elements of a norm
    sample_gelements_per_s_per_core: float = _figure("compute", 0.001, 1000)  # logits that a token is chosen from
    near_ns: float = _figure("latencies", 1, 1e4)  # a word, between cores that share a last level cache,
    far_ns: float = _figure("latencies", 1, 1e4)  # within a socket,
    socket_ns: float = _figure("latencies", 1, 1e4)  # between sockets
    task_ns: float = _figure("latencies", 1, 1e6)  # from the end of a task to the start of the next of the slice
    stream_ns: float = _figure("latencies", 0, 1e6)  # that a task which reads memory loses until it reads at full speed
    wake_us: float = _figure("latencies", 0, 1e4)  # until a worker that is woken runs
    wake_each_us: float = _figure("latencies", 0, 1e4)  # that waking it takes the waker: one after the other
    step_us: float = _figure("latencies", 0, 1e4)  # a step without work, from the caller's call to its return
    python_us: float = _figure("latencies", 0, 1e5)  # between two steps: tokens to text, and the next step's rows

    @property
    def cores(self) -> int:
        """Cores of all sockets."""
        return self.sockets * self.cores_per_socket

    def workers_of(self, threads: int | None) -> int:
        """So many workers, or, not told, those that ellm would take: some cores are left to Python."""
        return self.cores - spare(self.cores) if threads is None else threads

    @property
    def matmul_tflops_per_core(self) -> float:
        """The rate of bf16 multiplications."""
        return max(self.amx_bf16_tflops_per_core, self.vector_bf16_tflops_per_core)

    @property
    def isa(self) -> str:
        """Whose kernels multiply at that rate."""
        return "amx" if self.amx_bf16_tflops_per_core >= self.vector_bf16_tflops_per_core else "avx512"

    @property
    def matmul_rows(self) -> int:
        """A multiplication of fewer rows takes as long as one of so many: AMX has tiles of 16."""
        return 16 if self.isa == "amx" else 1

    def workers(self, threads: int) -> Workers:
        """Workers on the first so many cores, as ellm takes them.

        Raises InputError if the machine has fewer cores.
        """
        if not 1 <= threads <= self.cores:
            raise InputError(f"threads: {threads} asked for, but {self.name} has {self.cores} cores")
        socket, within = np.divmod(np.arange(threads), self.cores_per_socket)
        domain = socket * self.domains_per_socket + within * self.domains_per_socket // self.cores_per_socket
        cache = socket * self.caches_per_socket + within * self.caches_per_socket // self.cores_per_socket
        cores_per_cache = self.cores_per_socket / self.caches_per_socket
        return Workers(
            domain_of=domain.astype(np.int32),
            cache_of=cache.astype(np.int32),
            socket_of=socket.astype(np.int32),
            crews=_crews(domain, cache),
            domains=self.sockets * self.domains_per_socket,
            domain_rate=self.read_gb_per_s_per_domain,
            core_rate=self.read_gb_per_s_per_core,
            remote_rate=self.remote_read_gb_per_s_per_core,
            cache_rate=self.llc_read_gb_per_s_per_core,
            cache_bytes=self.llc_mib_per_cache * (1 << 20) + self.l2_kib_per_core * 1024 * cores_per_cache,
            task_ns=self.task_ns,
            stream_ns=self.stream_ns,
            near_ns=self.near_ns,
            far_ns=self.far_ns,
            socket_ns=self.socket_ns,
            fetch_bytes=self.l2_kib_per_core * 1024 / 2,
            spin_ns=ALWAYS_NS,
            linger_ns=LINGER_NS if threads < self.cores else SPIN_NS,
            gap_ns=1000 * self.python_us,
            wake_ns=1000 * self.wake_us,
            wake_each_ns=1000 * self.wake_each_us,
        )

    def with_free_scheduling(self) -> Machine:
        """The same machine if nothing that the scheduler does took time."""
        names = ("near_ns", "far_ns", "socket_ns", "task_ns", "wake_us", "wake_each_us", "step_us", "python_us")
        free: dict[str, Any] = dict.fromkeys(names, 0.0)
        return replace(self, **free)

    def as_toml(self, comment: str) -> str:
        """The file that `load` reads."""
        lines = [f"# {line}".rstrip() for line in comment.splitlines()]
        lines += [f"name = {json.dumps(self.name, ensure_ascii=False)}"]
        section = ""
        for one in fields(self)[1:]:
            if one.metadata["section"] != section:
                section = one.metadata["section"]
                lines += ["", f"[{section}]"]
            value = getattr(self, one.name)
            lines.append(f"{one.name} = {value if isinstance(value, int) else f'{value:.6g}'}")
        return "\n".join(lines) + "\n"


def _crews(domain: np.ndarray, cache: np.ndarray) -> Crews:
    """As `topology.crews` makes them; domains of a socket are as far from each other, those of two further."""
    places = list(zip(domain.tolist(), cache.tolist(), strict=True))

    def distance(a: int, b: int) -> tuple[bool, bool]:
        return places[a][0] != places[b][0], places[a][1] != places[b][1]

    return Crews.of(places, distance)


def known() -> list[str]:
    """Names of the machines that come with ellm."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str) -> Machine:
    """Read a machine that comes with ellm, or a file. Raises InputError, naming the file and the field."""
    path = FOLDER / f"{name}.toml" if name in known() else Path(name).expanduser()
    if not path.exists():
        raise InputError(f"machine {name!r} is neither a file nor one of {', '.join(known())}")
    if not path.is_file():
        raise InputError(f"{path}: is not a regular file")
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    return _read(content, str(path))


def _read(content: dict[str, Any], path: str) -> Machine:
    name = content.pop("name", None)
    if not isinstance(name, str) or not name:
        raise InputError(f"{path}: name: missing, or not a text")
    _check_names(content, path)
    values: dict[str, Any] = {}
    for one in fields(Machine)[1:]:
        section = one.metadata["section"]
        if one.name not in content.get(section, {}):
            raise InputError(f"{path}: [{section}] {one.name}: missing")
        values[one.name] = _number(content[section][one.name], one, path)
    machine = Machine(name, **values)
    _check(machine, path)
    return machine


def _check_names(content: dict[str, Any], path: str) -> None:
    """Raise InputError for a section or a figure that no machine has."""
    figures: dict[str, list[str]] = {}
    for one in fields(Machine)[1:]:
        figures.setdefault(one.metadata["section"], []).append(one.name)
    for section, found in content.items():
        if section not in figures or not isinstance(found, dict):
            raise InputError(f"{path}: {section}: not one of the sections {', '.join(figures)}")
        for name in found:
            if name not in figures[section]:
                close = get_close_matches(name, figures[section], 1)
                hint = f"; is {close[0]} meant?" if close else ""
                raise InputError(f"{path}: [{section}] {name}: not a figure of a machine{hint}")


def _number(value: Any, one: Any, path: str) -> float:
    where, least, most = f"{path}: [{one.metadata['section']}] {one.name}", one.metadata["least"], one.metadata["most"]
    whole = one.type in ("int", int)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise InputError(f"{where}: {value!r} is not a {'whole ' if whole else ''}number")
    if not least <= value <= most:  # false for nan too
        raise InputError(f"{where}: {value} is not between {least:g} and {most:g}")
    return value if whole else float(value)


def _check(machine: Machine, path: str) -> None:
    """Raise InputError for figures that contradict each other."""
    core, domain = "read_gb_per_s_per_core", "read_gb_per_s_per_domain"
    for section, small, large in (
        ("memory", core, domain),
        ("memory", "remote_read_gb_per_s_per_core", core),
        ("cores", "domains_per_socket", "cores_per_socket"),
        ("cores", "caches_per_socket", "cores_per_socket"),
        ("latencies", "near_ns", "far_ns"),
        ("latencies", "far_ns", "socket_ns"),
    ):
        a, b = getattr(machine, small), getattr(machine, large)
        if a > b:
            raise InputError(f"{path}: [{section}] {small}: {a:g} is more than {large}, {b:g}")
