"""Many tiny groups that become ready at once, and every worker after them."""

import os

from ellm.scheduler import Pool
from ellm.scheduler.probe_program import TABLE, ProbeGroup, one_row, probe_program

CORES = (sorted(os.sched_getaffinity(0)) * 4)[:4]


def test_one_event_publishes_thousands_of_groups():
    width = 5000
    groups = [ProbeGroup(1), *(ProbeGroup(1, [0]) for _ in range(width)), ProbeGroup(1, list(range(1, width + 1)))]
    with Pool(cores=CORES) as pool:
        executable = pool.load(probe_program(groups), TABLE)
        for _ in range(20):
            executable.run(one_row())
            assert executable.statistics()["last"]["tasks"] == width + 2


def test_a_long_chain_of_single_tasks():
    groups = [ProbeGroup(1), *(ProbeGroup(1, [i]) for i in range(5000))]
    with Pool(cores=CORES) as pool:
        executable = pool.load(probe_program(groups), TABLE)
        for _ in range(5):
            executable.run(one_row())
            assert executable.statistics()["last"]["tasks"] == len(groups)


def test_a_long_cascade_of_empty_groups():
    """Groups without tasks complete where they are published; a cascade of them must not use the stack."""
    length = 200_000
    groups = [ProbeGroup(1), *(ProbeGroup(0, [i]) for i in range(length)), ProbeGroup(1, [length])]
    with Pool(cores=CORES) as pool:
        executable = pool.load(probe_program(groups), TABLE)
        for _ in range(3):
            executable.run(one_row())
            assert executable.statistics()["last"]["tasks"] == 2


def test_many_steps_of_almost_nothing():
    with Pool(cores=CORES) as pool:
        executable = pool.load(probe_program([ProbeGroup(2), ProbeGroup(1, [0])]), TABLE)
        for _ in range(5000):
            executable.run(one_row())
        assert executable.statistics()["total"]["tasks"] == 15_000
