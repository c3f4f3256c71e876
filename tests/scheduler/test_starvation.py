"""No worker waits for another while there are tasks to take, and none burns its core while there are not."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ellm.scheduler import Pool, probes
from ellm.scheduler.probe_program import TABLE, ProbeGroup, one_row, probe_program

CORES = sorted(os.sched_getaffinity(0))
MS = 1_000_000


def schedules() -> list[tuple[int, int]]:
    """Of each worker's thread: the nanoseconds that it ran, and the times that it was put on a core."""
    tasks = [
        task for task in Path("/proc/self/task").iterdir() if task.joinpath("comm").read_text().startswith("ellm-")
    ]
    lines = [task.joinpath("schedstat").read_text().split() for task in tasks]
    return [(int(ran), int(times)) for ran, _, times in lines]


def test_tasks_behind_a_slow_one_are_stolen():
    """Worker 0 is stuck in task 0; the rest of its home slice must not wait for it."""
    tasks = 1000
    program = probe_program([ProbeGroup(tasks, kernel="slow", args={"first": 0, "last": 0, "ns": 200 * MS})])
    with Pool(cores=(CORES * 2)[:2]) as pool:
        executable = pool.load(program, TABLE)
        executable.run(one_row())
        statistics = executable.statistics()
    assert statistics["last"]["tasks"] == tasks
    assert statistics["last"]["steals"] >= 1
    assert min(worker["tasks"] for worker in statistics["workers"]) < tasks // 4


def test_a_slow_half_is_shared():
    """All slow tasks are in worker 0's home slice: the other takes its share of them."""
    slow = {"first": 0, "last": 31, "ns": 4 * MS}
    with Pool(cores=(CORES * 2)[:2]) as pool:
        executable = pool.load(probe_program([ProbeGroup(64, kernel="slow", args=slow)]), TABLE)
        most = []
        for _ in range(3):
            executable.run(one_row())
            most.append(max(worker["tasks"] for worker in executable.statistics()["workers"]) - 32)
        assert min(most) <= 24, "of 32 slow tasks one worker ran more than 24 each time"


@contextlib.contextmanager
def spinning(core):
    """Another program that never leaves this core."""
    script = f"import os\nos.sched_setaffinity(0, [{core}])\nprint(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as program:
        program.stdout.readline()
        try:
            yield
        finally:
            program.kill()


def thread_of(worker):
    """The number of a worker's thread."""
    tasks = Path("/proc/self/task").iterdir()
    return next(int(task.name) for task in tasks if task.joinpath("comm").read_text().strip() == f"ellm-{worker}")


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
@pytest.mark.parametrize("nice", [0, 19])
def test_a_worker_is_stolen_from_while_another_program_has_its_core(nice):
    """Worker 0 gets half of its core, or next to nothing of it: the other does what it cannot."""
    tasks = 300
    program = probe_program([ProbeGroup(tasks, kernel="slow", args={"last": tasks, "ns": MS // 10})])
    with Pool(cores=CORES[:2]) as pool, spinning(CORES[0]):
        executable = pool.load(program, TABLE)
        os.setpriority(os.PRIO_PROCESS, thread_of(0), nice)
        least = tasks
        for _ in range(3):
            executable.run(one_row())
            found = executable.statistics()
            assert sum(worker["tasks"] for worker in found["workers"]) == found["last"]["tasks"] == tasks
            least = min(least, found["workers"][0]["tasks"])
    if nice:
        assert least < tasks // 4, "of its home tasks, which are half of all"


def test_workers_sleep_within_a_step():
    """One long task: the other worker parks, instead of spinning for as long."""
    program = probe_program([ProbeGroup(1, kernel="slow", args={"ns": 300 * MS})])
    with Pool(cores=(CORES * 2)[:2]) as pool:
        executable = pool.load(program, TABLE)
        executable.run(one_row())
        before = schedules()
        executable.run(one_row())
        idle, busy = sorted(after - then for (after, _), (then, _) in zip(schedules(), before, strict=True))
        assert idle < busy / 4
        assert executable.statistics()["last"]["parks"] >= 1


def test_the_isa_is_left_for_every_sleep():
    """Tiles are configured by enter and released by leave: once per worker and step, and around each sleep in it."""
    program = probe_program([ProbeGroup(1, kernel="slow", args={"ns": 20 * MS}), ProbeGroup(64, [0])])
    with Pool(cores=(CORES * 2)[:2]) as pool:
        executable = pool.load(program, TABLE)
        before = probes.visits()
        for _ in range(5):
            executable.run(one_row())
        entered, left = (now - then for now, then in zip(probes.visits(), before, strict=True))
        parks = executable.statistics()["total"]["parks"]
    assert entered == left
    assert 5 + parks <= entered <= 2 * 5 + parks


def test_sleepers_are_woken_for_new_work():
    """A single slow task, then many: whoever slept through the first must help with the rest."""
    first = ProbeGroup(1, kernel="slow", args={"ns": 20 * MS})
    rest = ProbeGroup(40, [0], kernel="slow", args={"last": 39, "ns": 2 * MS})
    with Pool(cores=(CORES * 2)[:2]) as pool:
        executable = pool.load(probe_program([first, rest]), TABLE)
        executable.run(one_row())
        assert min(worker["tasks"] for worker in executable.statistics()["workers"]) >= 1


def test_workers_sleep_between_steps():
    with Pool() as pool:
        pool.load(probe_program([ProbeGroup(4)]), TABLE).run(one_row())
        before = None
        while before != (before := schedules()):  # until none has run for a while; pytest's time-out ends this
            time.sleep(0.1)
