"""The scheduler's own cost beside oneTBB's flow graph: `python bench/scheduler.py` (needs libtbb-dev and c++).

Three graphs: a layered random DAG of a million empty tasks; a chain of groups with one empty task per worker; the same
chain with tasks of 5 us, where the time from the end of a group's last task to the start of the next group's last is
the cost of going from one operator to the next. The contestants take turns; every figure is the median over the rounds.

Two more are ellm's own: layers in each of which 8 of some experts are woken, with two groups of one empty task per
worker each (8 of 8 is what waking itself costs; more experts must not cost more), and a step of one task.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ellm.scheduler import Executable, Pool
from ellm.scheduler.probe_program import TABLE, ProbeGroup, choice, one_row, probe_program, routed_program

TASK_NS = 5000
CHAIN = 5000
LAYERS = 500
HIT = 8


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


def chain(workers: int) -> list[ProbeGroup]:
    return [ProbeGroup(workers, [i - 1] if i else []) for i in range(CHAIN)]


def stamped_chain(stamps: np.ndarray) -> list[ProbeGroup]:
    """The chain with tasks that write when they begin and end to `stamps` (int64 [groups, tasks, 2])."""
    groups = chain(stamps.shape[1])
    for group, marks in zip(groups, stamps, strict=True):
        group.kernel, group.args = "stamp", {"ns": TASK_NS, "marks": marks.ctypes.data}
    return groups


def median_handover(stamps: np.ndarray) -> float:
    """Seconds."""
    return float(np.median(stamps[1:, :, 0].max(1) - stamps[:-1, :, 1].max(1))) / 1e9


class Ellm:
    """One graph on a pool."""

    def __init__(self, pool: Pool, groups: list[ProbeGroup], stamps: np.ndarray | None):
        self.executable, self.stamps = pool.load(probe_program(groups), TABLE), stamps

    def run(self) -> tuple[float, float]:
        begin = time.perf_counter()
        self.executable.run(one_row())
        seconds = time.perf_counter() - begin
        return seconds, 0 if self.stamps is None else median_handover(self.stamps)

    def close(self) -> None:
        pass


class Tbb:
    """The same in a process of bench/tbb_graph.cpp."""

    def __init__(self, program: Path, groups: list[ProbeGroup], mode: str, threads: int):
        numbers = [len(groups)]
        for group in groups:
            numbers += [group.tiles, len(group.after), *group.after]
        with tempfile.NamedTemporaryFile(dir=program.parent, delete=False) as file:
            np.array(numbers, np.int32).tofile(file)
        command = [str(program), file.name, mode, str(threads), str(groups[0].args.get("ns", 0))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self) -> tuple[float, float]:
        assert self.process.stdin and self.process.stdout
        print(file=self.process.stdin, flush=True)
        seconds, handover = map(float, self.process.stdout.readline().split())
        return seconds, handover

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def contest(
    pool: Pool, program: Path, groups: list[ProbeGroup], rounds: int, stamps: np.ndarray | None = None
) -> tuple[list[float], list[float]]:
    """Median seconds, and median handovers in seconds, of ellm, of a TBB node per task and of a TBB node per group."""
    contestants: list[Ellm | Tbb] = [Ellm(pool, groups, stamps)]
    contestants += [Tbb(program, groups, mode, pool.threads) for mode in ("task", "group")]
    for contestant in contestants:
        contestant.run()
    times = np.array([[contestant.run() for contestant in contestants] for _ in range(rounds)])
    for contestant in contestants:
        contestant.close()
    seconds, handovers = np.median(times, axis=0).T.tolist()
    return seconds, handovers


def median_step(executable: Executable, steps: int) -> float:
    """Seconds from call to return."""
    seconds = []
    for _ in range(steps):
        begin = time.perf_counter()
        executable.run(one_row())
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def waking(pool: Pool, experts: int, rounds: int) -> float:
    """Seconds per layer."""
    chosen = choice(experts, [i * experts // HIT for i in range(HIT)], [1] * HIT)
    executable = pool.load(routed_program(LAYERS, chosen, tiles=pool.threads), TABLE)
    executable.run(one_row())
    return median_step(executable, 20 * rounds) / LAYERS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Pool() as pool:
        program = Path(folder, "tbb_graph")
        source = Path(__file__).with_name("tbb_graph.cpp")
        command = ["c++", "-O3", "-std=c++17", str(source), "-o", str(program), "-ltbb"]
        if subprocess.run(command, check=False).returncode:
            parser.error(f"c++ cannot build {source.name}, which needs libtbb-dev")
        layers = random_layers(options.tasks)
        stamps = np.zeros((CHAIN, pool.threads, 2), np.int64)
        random, _ = contest(pool, program, layers, options.rounds)
        empty, _ = contest(pool, program, chain(pool.threads), options.rounds)
        _, handovers = contest(pool, program, stamped_chain(stamps), options.rounds, stamps)
        woken = {experts: waking(pool, experts, options.rounds) for experts in (HIT, 128, 256)}
        step = median_step(pool.load(probe_program([ProbeGroup(1)]), TABLE), 1000 * options.rounds)
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
        f"chain, one task of {TASK_NS / 1000:g} µs per worker: µs from one operator to the next",
        *(f"{seconds * 1e6:.2f}" for seconds in handovers),
    )
    for experts, seconds in woken.items():
        table.add_row(f"{HIT} of {experts} experts woken: µs per layer", f"{seconds * 1e6:.2f}", "", "")
    table.add_row("step of one row and one empty task: µs from call to return", f"{step * 1e6:.2f}", "", "")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
