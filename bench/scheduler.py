"""The scheduler's own cost beside oneTBB's flow graph: `python bench/scheduler.py` (needs libtbb-dev and c++).

Three graphs: a layered random DAG of a million empty tasks; a chain of groups with one empty task per worker; the same
chain with tasks of 5 us, where what a group takes beyond 5 us is the cost of going from one operator to the next. The
contestants take turns, and each figure is the median over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ellm.scheduler import Pool
from ellm.scheduler.probe_program import TABLE, ProbeGroup, one_row, probe_program

TASK_NS = 5000
CHAIN = 5000


def random_layers(tasks: int, seed: int = 0) -> list[ProbeGroup]:
    """Layers of 1 to 20 groups of 1 to 200 tasks; a group comes after 1 to 3 groups of the layer before."""
    random = np.random.default_rng(seed)
    groups: list[ProbeGroup] = []
    before: list[int] = []
    while tasks > 0:
        layer = []
        for _ in range(random.integers(1, 21)):
            size = min(int(random.integers(1, 201)), tasks)
            sources = min(len(before), int(random.integers(1, 4)))
            after = random.choice(before, sources, replace=False).tolist() if before else []
            if size:
                layer.append(len(groups))
                groups.append(ProbeGroup(size, after))
            tasks -= size
        before = layer
    return groups


def chain(workers: int, kernel: str = "empty") -> list[ProbeGroup]:
    args = {"last": workers, "ns": TASK_NS} if kernel == "slow" else {}
    return [ProbeGroup(workers, [i - 1] if i else [], kernel, args) for i in range(CHAIN)]


class Tbb:
    """One graph in a process of bench/tbb_graph.cpp."""

    def __init__(self, program: Path, groups: list[ProbeGroup], mode: str, threads: int):
        numbers = [len(groups)]
        for group in groups:
            numbers += [group.tiles, len(group.after), *group.after]
        with tempfile.NamedTemporaryFile(dir=program.parent, delete=False) as file:
            np.array(numbers, np.int32).tofile(file)
        command = [str(program), file.name, mode, str(threads), str(groups[0].args.get("ns", 0))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self) -> float:
        assert self.process.stdin and self.process.stdout
        print(file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def contest(pool: Pool, program: Path, groups: list[ProbeGroup], rounds: int) -> list[float]:
    """Median seconds of ellm, of a TBB node per task and of a TBB node per group."""
    executable = pool.load(probe_program(groups), TABLE)

    def ours() -> float:
        begin = time.perf_counter()
        executable.run(one_row())
        return time.perf_counter() - begin

    theirs = [Tbb(program, groups, mode, pool.threads) for mode in ("task", "group")]
    contestants: list[Callable[[], float]] = [ours, *(tbb.run for tbb in theirs)]
    for run in contestants:
        run()
    times = [[run() for run in contestants] for _ in range(rounds)]
    for tbb in theirs:
        tbb.close()
    return [statistics.median(column) for column in zip(*times, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Pool() as pool:
        program = Path(folder, "tbb_graph")
        source = Path(__file__).with_name("tbb_graph.cpp")
        subprocess.run(["c++", "-O3", "-std=c++17", str(source), "-o", str(program), "-ltbb"], check=True)
        layers = random_layers(options.tasks)
        random = contest(pool, program, layers, options.rounds)
        empty = contest(pool, program, chain(pool.threads), options.rounds)
        busy = contest(pool, program, chain(pool.threads, "slow"), options.rounds)
        cores = pool.threads
    table = Table(title=f"{cores} cores, medians of {options.rounds} rounds")
    for name in ("", "ellm", "oneTBB, node per task", "oneTBB, node per group"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row(
        f"random DAG, {options.tasks:,} empty tasks in {len(layers):,} groups: M tasks/s",
        *(f"{options.tasks / seconds / 1e6:.1f}" for seconds in random),
    )
    table.add_row("chain, one empty task per worker: µs per operator", *(f"{s / CHAIN * 1e6:.2f}" for s in empty))
    table.add_row(
        f"chain, one task of {TASK_NS / 1000:g} µs per worker: µs per operator beyond it",
        *(f"{s / CHAIN * 1e6 - TASK_NS / 1000:.2f}" for s in busy),
    )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
