"""How cores share sockets, memory domains and last level caches, as /sys tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from ellm.scheduler import topology
from ellm.scheduler.topology import ROOT, Cache
from ellm.system.errors import InputError


@dataclass(frozen=True)
class Sharing:
    """Cores, and what each of them shares. A NUMA node that spans sockets is one domain in each."""

    cores: list[int]
    sockets: list[Hashable]  # [cores], as are the others
    domains: list[Hashable]
    caches: list[Hashable]  # last level
    last: list[Cache | None]  # what these are, if /sys tells
    l2_bytes: int  # of a core, unless that is its last level

    @classmethod
    def of(cls, cores: list[int], root: Path = ROOT) -> Sharing:
        """Where these cores lie."""
        sockets = [topology.socket(core, root) for core in cores]
        node_of = {core: node for node, members in topology.numa_nodes(root).items() for core in members}
        near = [topology.caches(core, root) for core in cores]
        last = [caches[-1] if caches else None for caches in near]
        second = [cache.size for cache in near[0][:-1] if cache.level == 2]
        return cls(
            cores=cores,
            sockets=[*sockets],
            domains=[(socket, node_of.get(core, 0)) for socket, core in zip(sockets, cores, strict=True)],
            caches=[(socket, cache and cache.cores) for socket, cache in zip(sockets, last, strict=True)],
            last=last,
            l2_bytes=second[0] if second else 0,
        )

    def per_socket(self) -> tuple[int, int, int, int]:
        """Sockets, and the cores, domains and caches of each.

        Raises InputError if sockets hold different numbers of these: a description has equal sockets.
        """
        found = {}
        for name, shared in (("cores", self.cores), ("domains", self.domains), ("caches", self.caches)):
            counts = Counter(socket for socket, _ in set(zip(self.sockets, shared, strict=True)))
            if len(set(counts.values())) > 1:
                each = ", ".join(f"{count} of socket {socket}" for socket, count in sorted(counts.items(), key=str))
                raise InputError(
                    f"--threads {len(self.cores)}: of the {name} that these share there are {each}, "
                    "but a description has as many in each socket"
                )
            found[name] = next(iter(counts.values()))
        return len(set(self.sockets)), found["cores"], found["domains"], found["caches"]

    @property
    def last_level_bytes(self) -> int:
        """Of one last level cache; 0 if /sys does not tell."""
        return max((cache.size for cache in self.last if cache), default=0)

    def pairs(self) -> dict[str, list[int]]:
        """Two cores that share a last level cache ("near"), only a socket ("far"), and not even that ("socket").

        What there is no pair of is left out.
        """
        found: dict[str, list[int]] = {}
        for a, b in combinations(range(len(self.cores)), 2):
            relation = "near" if self.caches[a] == self.caches[b] else "far"
            relation = relation if self.sockets[a] == self.sockets[b] else "socket"
            found.setdefault(relation, [self.cores[a], self.cores[b]])
        return found

    def remote(self) -> int | None:
        """The index of the first core in another domain than the first; None: there is one domain."""
        return next((i for i, domain in enumerate(self.domains) if domain != self.domains[0]), None)
