"""Where tasks are at home: what lies in a node's memory stays there, and a worker meets few row blocks and experts."""

from collections import defaultdict
from random import Random

import numpy as np
import pytest
from block_programs import check_random_program, oversubscribed
from test_simulate import make_work, make_workers

from ellm.scheduler import StepInput, StepTables, topology
from ellm.scheduler.crews import Crews
from ellm.scheduler.probe_program import assemble, choice, routed_program
from ellm.scheduler.program import Kind, Program
from ellm.scheduler.simulate import simulate

BLOCKS, TILES = 8, 12


def two_nodes(workers: int) -> Crews:
    places = [2 * i // workers for i in range(workers)]
    return Crews.of(places, lambda a, b: places[a] != places[b])


def row_blocks(tiles: int = TILES) -> Program:
    """One operator on each of some row blocks, all ready at once."""
    return assemble(
        ["empty"],
        [{}],
        [(0, block, Kind.ROWS, tiles, 0, 0, -1) for block in range(BLOCKS)],
        [(0, Kind.ROWS)],
        {"signals": [[0]] * BLOCKS, "publishes": [[]], "triggers": [[]]},
        roots=np.arange(BLOCKS, dtype=np.int32),
        end=0,
        blocks=BLOCKS,
    )


def run_blocks(rows: int) -> dict[int, list[tuple[int, int]]]:
    """Worker -> (row block, task) of each task that it runs, of 24 workers in two nodes."""
    program = row_blocks()
    counts = StepTables(program, 24).fill(StepInput.of(np.arange(rows))).counts
    work = make_work(program, counts, ns=10_000.0)
    ran = defaultdict(list)
    for worker, group, index, _, _ in simulate(
        program, work, make_workers(24, crews=two_nodes(24)), record=True
    ).record:
        ran[worker].append((group, index))
    return ran


def test_a_worker_meets_few_row_blocks():
    ran = run_blocks(16 * BLOCKS)
    assert {len(tasks) for tasks in ran.values()} == {BLOCKS * TILES // 24}
    assert max(len({block for block, _ in tasks}) for tasks in ran.values()) <= 2


@pytest.mark.parametrize("rows", [1, 40, 16 * BLOCKS])
def test_a_node_has_the_same_columns_of_every_row_block(rows):
    ran = run_blocks(rows)
    for worker, tasks in ran.items():
        assert all(index // (TILES // 2) == worker // 12 for _, index in tasks)


def unequal_blocks(crews: Crews, tiles: int, slow: int):
    """Simulate row blocks whose tasks take 1 us, those of one of them 5 us."""
    program, workers = row_blocks(tiles), len(crews.of_worker)
    counts = StepTables(program, workers).fill(StepInput.of(np.arange(16 * BLOCKS))).counts
    ns = np.where(np.arange(BLOCKS) == slow, 5000.0, 1000.0)
    return simulate(program, make_work(program, counts, ns=ns), make_workers(workers, crews=crews), record=True)


@pytest.mark.parametrize("slow", [0, BLOCKS - 1])
def test_what_was_stolen_can_be_stolen_again(slow):
    """The slow row block is at home with 6 of 48 workers; whoever takes half of what one of them has gives of it."""
    step = unequal_blocks(Crews.of([0] * 48, lambda a, b: 0), 192, slow)
    assert step.waiting < 0.15  # where only what is at home can be stolen it is a half


def test_a_thief_goes_on_with_the_row_block_that_it_has_prepared():
    """If it can. At home 24 workers have 7 borders between row blocks in each of two nodes."""
    step = unequal_blocks(two_nodes(24), 192, 0)
    changes = sum(
        np.count_nonzero(np.diff([group for one, group, _, _, _ in step.record if one == worker]))
        for worker in range(24)
    )
    assert step.steals.sum() > 48 and changes <= 2 * 7 + 24


@pytest.mark.parametrize("hit, most", [(32, 4), (3, 3)])
def test_a_worker_meets_few_of_many_experts(hit, most):
    """Of 32 experts a node's 12 workers have 2.7 each, for all of the node's columns; of 3 all have some."""
    experts, workers = 40, 24
    program = routed_program(1, choice(experts, list(range(hit)), [1] * hit), TILES)
    counts = StepTables(program, workers).fill(StepInput.of([0])).counts
    items = np.zeros(len(program.groups), np.int64)
    items[[0, len(items) - 1]] = 1
    items[1 : 1 + hit] = items[1 + experts : 1 + experts + hit] = 1
    work = make_work(program, counts, items=items, ns=10_000.0, woken=[list(range(1, 1 + hit))])
    step = simulate(program, work, make_workers(workers, crews=two_nodes(workers)), record=True)
    met = defaultdict(set)
    for worker, group, _, _, _ in step.record:
        if 1 <= group <= experts:
            met[worker].add(group)
    assert len(met) == workers
    assert max(len(groups) for groups in met.values()) <= most
    assert hit < 12 or all(len(groups) < 5 for groups in met.values())


def test_experts_are_dealt_out_by_their_rows():
    """Of 12 experts with 16 rows and as many with 256 workers have fewer of the large ones, so that few must steal."""
    experts, workers = 24, 12
    program = routed_program(1, choice(experts, list(range(experts)), [1] * experts), 60)
    counts = StepTables(program, workers).fill(StepInput.of([0])).counts
    items = np.ones(len(program.groups), np.int64)
    expert = np.where(program.groups["counts"] < 0, -1, program.groups["block"])
    work = make_work(program, counts, items=items, woken=[list(range(1, 1 + experts))])
    work.rows[:] = np.where(expert < 0, 0, np.where(expert < 12, 16, 256))
    work.item_ns[:] = np.where(expert < 0, 0, 100 * (64 + work.rows))
    step = simulate(program, work, make_workers(workers), record=True)
    assert step.steals.sum() < workers and step.waiting < 0.05


@pytest.mark.parametrize("workers", [6, 26, 40])
def test_native_workers_of_two_nodes(workers, monkeypatch):
    """Counts of tasks by crew add up wherever tasks are at home."""
    monkeypatch.setattr(topology, "crews", lambda cores: two_nodes(len(cores)))
    with oversubscribed(workers) as pool:
        assert pool.crews.count >= 2
        for seed in range(6):
            check_random_program(pool, Random(seed))
