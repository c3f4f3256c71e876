"""Simulated steps: the same tasks in an order that every event allows, shared bandwidth, and times that add up."""

from itertools import pairwise
from random import Random

import numpy as np
import pytest
from block_programs import BlockProgram, random_step
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.kernels.contract import EXPERT_ROWS
from ellm.scheduler import StepTables, simulation
from ellm.scheduler.crews import Crews
from ellm.scheduler.interpret import walk
from ellm.scheduler.probe_program import ProbeGroup, one_row, probe_program
from ellm.scheduler.program import Kind, Lists
from ellm.scheduler.simulate import IN_DOMAIN, CacheState, StepWork, Workers, needed_signals, simulate


def make_workers(count: int, **changes) -> Workers:
    worker = np.arange(count)
    fields = {
        "domain_of": (worker % 2).astype(np.int32),
        "cache_of": (worker % 2).astype(np.int32),
        "socket_of": np.zeros(count, np.int32),
        "crews": Crews.of([0] * count, lambda a, b: 0),
        "domains": 2,
        "domain_rate": 40.0,
        "core_rate": 20.0,
        "remote_rate": 10.0,
        "cache_rate": 100.0,
        "cache_bytes": 0.0,
        "fetch_bytes": 0.0,
        "task_ns": 10.0,
        "stream_ns": 0.0,
        "near_ns": 50.0,
        "far_ns": 80.0,
        "socket_ns": 100.0,
        "spin_ns": 30000.0,
        "linger_ns": 30000.0,
        "gap_ns": 0.0,
        "wake_ns": 5000.0,
        "wake_each_ns": 0.0,
    }
    return Workers(**(fields | changes))


def make_work(program, counts, *, size=0.0, ns=0.0, items=None, woken=None, keys=False, home=-1) -> StepWork:
    """Every task alike, unless `ns` gives those of each group."""
    groups = program.groups
    if items is None:
        items = counts[groups["kind"], groups["block"]]
    first = np.cumsum(items) - items
    total = int(items.sum())
    per_item = np.repeat(np.broadcast_to(np.asarray(ns, float), len(groups)), items)
    tasks = items * groups["tiles"]
    return StepWork(
        count=items.astype(np.int32),
        rows=np.where(groups["counts"] < 0, 0, EXPERT_ROWS * items).astype(np.int64),
        row_blocks=int(np.count_nonzero(counts[Kind.ROWS])),
        needed=needed_signals(program, counts),
        woken=Lists.of(woken or [[] for _ in program.wakes]),
        item_begin=first.astype(np.int64),
        item_key=np.repeat(np.cumsum(tasks) - tasks, items).astype(np.int64) if keys else np.full(total, -1, np.int64),
        item_bytes=np.full(total, float(size)),
        item_ns=per_item,
        item_more_ns=np.zeros(total),
        item_panel_ns=np.zeros(total),
        item_home=np.full(total, float(home)),
        keys=int(tasks.sum()) if keys else 0,
    )


def simulate_groups(groups: list[ProbeGroup], workers: Workers, **options):
    program = probe_program(groups)
    counts = StepTables(program, workers.count).fill(one_row()).counts
    return simulate(program, make_work(program, counts, **options), workers, record=True)


@given(random=st.randoms(use_true_random=False), count=st.sampled_from([1, 2, 3, 8, 33]))
@settings(max_examples=150, deadline=None)
def test_random_programs_run_every_task_once_and_after_what_it_waits_for(random: Random, count: int):
    graph = BlockProgram(random)
    program, inputs = graph.program, random_step(random, graph.program)
    graph.choose(random)
    counts = StepTables(program, count).fill(inputs).counts
    arena = np.zeros(program.arena_bytes, np.uint8)
    choosers = {routing.chooser: routing for routing in graph.routings}
    expected = {}
    for group, tasks in walk(program, counts, arena):
        expected[group] = tasks
        if group in choosers:
            arena[choosers[group].shared :][: choosers[group].bytes] = choosers[group].choice.view(np.uint8)
    items = np.where(
        program.groups["counts"] < 0,
        counts[program.groups["kind"], np.where(program.groups["counts"] < 0, program.groups["block"], 0)],
        0,
    )
    woken = []
    for wake in program.wakes:
        routing = choosers[int(wake["group"])]
        hit = routing.choice[1 : 1 + routing.choice[0]]
        woken.append((int(wake["first"]) + hit).tolist())
    for group, tasks in expected.items():
        items[group] = tasks // program.groups["tiles"][group]
    ns = np.array([random.choice([0.0, 10.0, 1000.0]) for _ in program.groups])
    work = make_work(program, counts, size=random.choice([0, 640]), ns=ns, items=items, woken=woken)
    step = simulate(program, work, make_workers(count), record=True)

    ran: dict[int, list[int]] = {}
    begin, end = {}, {}
    for _, group, index, start, stop in step.record:
        ran.setdefault(group, []).append(index)
        begin[group] = min(begin.get(group, start), start)
        end[group] = max(end.get(group, stop), stop)
    assert {group: sorted(indices) for group, indices in ran.items()} == {
        group: list(range(tasks)) for group, tasks in expected.items()
    }
    for group in ran:
        for source in graph.sources[group]:
            assert source not in end or end[source] <= begin[group], f"group {group} begins before {source} ends"
    assert max(end.values()) <= step.ns
    check_cores(step.record, count)


def check_cores(record, workers: int) -> None:
    """No two tasks at once on a core."""
    for worker in range(workers):
        spans = sorted((begin, end) for w, _, _, begin, end in record if w == worker)
        assert all(after[0] >= before[1] for before, after in pairwise(spans))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_readers_share_a_domain_and_no_core_reads_faster_than_it_can(count):
    workers = make_workers(
        count, domain_of=np.zeros(count, np.int32), domains=1, task_ns=0.001, near_ns=0.001, far_ns=0.001
    )
    step = simulate_groups([ProbeGroup(40 * count)], workers, size=100_000)
    rate = min(20.0 * count, 40.0)
    assert step.ns == pytest.approx(40 * count * 100_000 / rate, rel=0.01)
    assert step.memory_bytes == 40 * count * 100_000


def test_a_task_takes_the_longer_of_reading_and_computing():
    workers = make_workers(1, domain_of=np.zeros(1, np.int32), domains=1)
    reading = simulate_groups([ProbeGroup(10)], workers, size=20_000, ns=500.0).kernel_ns.sum()
    computing = simulate_groups([ProbeGroup(10)], workers, size=20_000, ns=3000.0).kernel_ns.sum()
    assert reading == pytest.approx(10 * 1000) and computing == pytest.approx(10 * 3000)


def test_idle_workers_steal_from_one_that_is_late():
    """One task of worker 0's home slice is long: the others take the rest of its slice."""
    workers = make_workers(4)
    program = probe_program([ProbeGroup(40)])
    counts = StepTables(program, 4).fill(one_row()).counts
    work = make_work(program, counts, ns=100.0)
    tiles = int(program.groups["tiles"][0])
    program.groups["tiles"][0] = 1
    work.count[0] = tiles  # one item a task
    work.item_begin[:] = 0
    for name in ("item_bytes", "item_more_ns", "item_panel_ns"):
        setattr(work, name, np.zeros(tiles))
    work.item_key, work.item_home = np.full(tiles, -1, np.int64), np.full(tiles, -1.0)
    work.item_ns = np.full(tiles, 100.0)
    work.item_ns[0] = 100_000
    step = simulate(program, work, workers, record=True)
    assert step.tasks.tolist()[0] == 1 and step.steals.sum() >= 1
    assert step.ns < 101_000


def test_a_search_that_finds_nothing_does_not_wait_for_each_look():
    """Of 65 workers those that are done look at what the others have left, and are soon back for the next group.

    Each group takes its task, 11 counts of a crew and 6 of crews, one after the other: to look at 64 slices would take
    as long.
    """
    zero = np.zeros(65, np.int32)
    workers = make_workers(65, near_ns=50.0, far_ns=50.0, domain_of=zero, cache_of=zero, domains=1)
    step = simulate_groups([ProbeGroup(65), ProbeGroup(65, [0])], workers, ns=np.array([1000.0, 1000.0]))
    assert 2 * (1000 + 17 * 50) < step.ns < 1.05 * 2 * (1000 + 17 * 50)


def test_what_the_cache_holds_is_not_read_again():
    workers = make_workers(2, cache_bytes=1e6, domain_of=np.zeros(2, np.int32), domains=1)
    program = probe_program([ProbeGroup(8)])
    counts = StepTables(program, 2).fill(one_row()).counts
    work = make_work(program, counts, size=50_000, keys=True)
    caches = CacheState.empty(work, workers)
    first = simulate(program, work, workers, caches)
    again = simulate(program, work, workers, caches)
    assert (first.memory_bytes, first.cached_bytes) == (400_000, 0)
    assert again.memory_bytes == 0 and again.cached_bytes == 400_000 and again.ns < first.ns


def test_the_critical_path_adds_up_to_the_step():
    groups = [ProbeGroup(5), ProbeGroup(3, [0]), ProbeGroup(7, [0]), ProbeGroup(2, [1, 2])]
    step = simulate_groups(groups, make_workers(3), size=1000, ns=200.0)
    path = step.critical_path()
    assert [group for group, _ in path][::2] == [0, 3]
    assert 0.9 * step.ns < sum(ns for _, ns in path) <= step.ns


def test_waking_takes_time():
    """Workers that have slept through a long task must be woken for the next group."""
    groups = [ProbeGroup(1), ProbeGroup(4, [0])]
    ns = np.array([100_000.0, 1000.0])
    late = simulate_groups(groups, make_workers(4, wake_ns=900.0), ns=ns).ns
    later = simulate_groups(groups, make_workers(4, wake_ns=1800.0), ns=ns).ns
    assert later > late


def test_sleepers_are_woken_one_after_the_other():
    """The first of a crew, and then by it the others; its waker goes on when it has woken that one."""
    groups = [ProbeGroup(1), ProbeGroup(8, [0])]
    workers = make_workers(8, wake_ns=900.0, wake_each_ns=2000.0)
    step = simulate_groups(groups, workers, ns=np.array([100_000.0, 50_000.0]))
    begins = sorted(begin for _, group, _, begin, _ in step.record if group == 1)
    woken = step.published[1]
    assert begins[0] == pytest.approx(woken + 2000, abs=200) and begins[1] == pytest.approx(woken + 2900, abs=200)
    assert np.diff(begins)[2:] == pytest.approx(2000, abs=200)


def test_workers_that_wait_read_ahead(monkeypatch):
    """Of the 100 us that each reads in the last group three read what they can while the fourth runs the one before."""
    monkeypatch.setattr(simulation, "following", lambda program: np.array([2, 2, -1], np.int32))
    groups = [ProbeGroup(4), ProbeGroup(1, [0]), ProbeGroup(4, [1])]
    program = probe_program(groups)
    work = make_work(program, StepTables(program, 4).fill(one_row()).counts, ns=np.array([0, 60e3, 0]), home=0)
    work.item_bytes[2] = 1_000_000
    times = {}
    for fetch_bytes in (0.0, 400_000.0, 2_000_000.0):
        workers = make_workers(4, domain_rate=40.0, core_rate=10.0, spin_ns=1e9, fetch_bytes=fetch_bytes)
        step = simulate(program, work, workers, record=True)
        assert step.memory_bytes == pytest.approx(4_000_000)
        times[fetch_bytes] = sorted(end - begin for _, group, _, begin, end in step.record if group == 2)
    assert times[0.0] == pytest.approx([100e3] * 4, rel=0.01)
    assert times[4e5] == pytest.approx([60e3] * 3 + [100e3], rel=0.01)
    assert times[2e6] == pytest.approx([40e3] * 3 + [100e3], rel=0.05)


def test_crews_are_woken_side_by_side():
    groups, ns = [ProbeGroup(1), ProbeGroup(24, [0])], np.array([100_000.0, 500_000.0])
    crews = Crews.of([0] * 24, lambda a, b: 0)
    assert crews.count == 2
    one, two = (
        last_begin(simulate_groups(groups, make_workers(24, wake_ns=900.0, wake_each_ns=2000.0, crews=found), ns=ns))
        for found in (Crews(np.array([0, 24], np.int32), crews.node, np.zeros((1, 1), np.int32)), crews)
    )
    assert two < one - 15_000


def last_begin(step) -> float:
    return max(begin for _, _, _, begin, _ in step.record)


def test_workers_that_slept_between_steps_are_woken_for_the_next():
    awake = simulate_groups([ProbeGroup(8)], make_workers(8, wake_each_ns=1000.0), ns=500.0).ns
    slept = simulate_groups([ProbeGroup(8)], make_workers(8, wake_each_ns=1000.0, gap_ns=31_000.0), ns=500.0).ns
    assert awake < 1500 and slept > 8000


@pytest.mark.parametrize(("home", "rate"), [(-1.0, 80.0), (0.0, 80.0), (0.75, 40.0), (IN_DOMAIN - 1.0, 40.0)])
def test_what_lies_in_one_domain_is_read_at_its_rate(home, rate):
    """Of 8 workers in two domains; from 0.75 of them on, all are in the second."""
    domains = np.repeat([0, 1], 4).astype(np.int32)
    workers = make_workers(8, domain_of=domains, remote_rate=20.0, task_ns=0.001, near_ns=0.001, far_ns=0.001)
    step = simulate_groups([ProbeGroup(320)], workers, size=100_000, home=home)
    assert step.ns == pytest.approx(320 * 100_000 / rate, rel=0.02)


def test_a_step_that_cannot_end_is_an_error():
    program = probe_program([ProbeGroup(2)])
    work = make_work(program, StepTables(program, 2).fill(one_row()).counts)
    work.needed[program.end] += 1
    with pytest.raises(RuntimeError, match="never ends"):
        simulate(program, work, make_workers(2))
