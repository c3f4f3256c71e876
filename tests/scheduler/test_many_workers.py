"""One program on 2 to 64 workers of few cores: they sleep and wake each other all the time, in one crew or several."""

from random import Random

import pytest
from block_programs import check_random_program, oversubscribed

from ellm.scheduler import placement
from ellm.scheduler.crews import MOST, Crews
from ellm.scheduler.probe_program import TABLE, ProbeGroup, one_row, probe_program


@pytest.mark.parametrize("workers", [2, 3, 12, 13, 25, 64])
def test_random_programs_on_any_number_of_workers(workers):
    with oversubscribed(workers) as pool:
        assert len(pool.crews.of_worker) == workers
        for seed in range(4):
            check_random_program(pool, Random(seed))


@pytest.mark.parametrize("workers", [2, 13, 64])
def test_sleepers_are_woken_for_each_group(workers):
    """Long single tasks between wide groups let all others fall asleep."""
    groups: list[ProbeGroup] = []
    for number in range(6):
        after = [len(groups) - 1] if groups else []
        groups.append(
            ProbeGroup(1, after, "slow", {"first": 0, "last": 0, "ns": 300_000})
            if number % 2
            else ProbeGroup(3 * workers, after)
        )
    with oversubscribed(workers) as pool:
        executable = pool.load(probe_program(groups), TABLE)
        for _ in range(30):
            executable.run(one_row())
            assert executable.statistics()["last"]["tasks"] == sum(group.tiles for group in groups)
        assert executable.statistics()["total"]["parks"] > 0


@pytest.mark.timeout(60, method="thread")  # a step that hangs takes no signal
def test_nobody_sleeps_on_tasks_left_to_owners_who_sleep(monkeypatch):
    """Two crews leave the tasks of a new group to their owners for a moment; who is put off its core then stays awake.

    Workers that never watch before they sleep would sleep in each such moment.
    """
    monkeypatch.setattr(placement, "SPIN_NS", 0)
    groups = [
        ProbeGroup(2 - number % 2, [number - 1] if number else [], "slow", {"last": 1, "ns": 300_000})
        for number in range(20)
    ]
    with oversubscribed(MOST + 1) as pool:
        assert pool.crews.count == 2 and pool.placement.spin_ns == 0
        executable = pool.load(probe_program(groups), TABLE)
        for _ in range(100):
            executable.run(one_row())
            assert executable.statistics()["last"]["tasks"] == 30


def test_crews_are_neighbours_and_know_who_is_near():
    places = [0] * 43 + [1] * 43 + [2] * 40
    crews = Crews.of(places, lambda a, b: abs(places[a] - places[b]))
    sizes = crews.begin[1:] - crews.begin[:-1]
    assert sizes.max() <= MOST and sizes.min() >= MOST - 2 and crews.begin[-1] == len(places)
    assert all(len(set(places[begin:end])) == 1 for begin, end in zip(crews.begin, crews.begin[1:], strict=False))
    for crew, order in enumerate(crews.order):
        distances = [abs(places[crews.begin[crew]] - places[crews.begin[other]]) for other in order]
        assert order[0] == crew and distances == sorted(distances)
