"""Only the experts that a kernel names are run: not the others, and not those named in a step before."""

import os
import sys

import numpy as np
import pytest

from ellm.kernels.contract import EXPERT_ROWS
from ellm.scheduler import Pool, StepError, StepTables
from ellm.scheduler.interpret import walk
from ellm.scheduler.probe_program import TABLE, choice, one_row, routed_program

LIST, EXPERTS = 64, 37


@pytest.fixture(params=[1, 4])
def pool(request):
    with Pool(cores=(sorted(os.sched_getaffinity(0)) * 4)[: request.param]) as pool:
        yield pool


def order(program, chosen):
    arena = np.zeros(program.arena_bytes, np.uint8)
    found = []
    for group, tasks in walk(program, StepTables(program, 1).fill(one_row()).counts, arena):
        if program.kernels[program.op_kernel[program.groups["op"][group]]] == "choose":
            arena[LIST:] = chosen.view(np.uint8)
        found.append((group, tasks))
    return found


def test_tasks_are_experts_hit_times_their_tiles(pool):
    chosen = choice(EXPERTS, [], [])
    executable = pool.load(routed_program(3, chosen, tiles=5), TABLE)
    for hit, counts in (([0, 36], [1, 4]), ([], []), ([7], [2]), (range(EXPERTS), [1] * EXPERTS)):
        chosen[:] = choice(EXPERTS, list(hit), counts)
        executable.run(one_row())
        operators = executable.statistics()["operators"]
        for layer in range(3):
            for op in (f"empty.{4 * layer + 1}", f"empty.{4 * layer + 2}"):
                expected = {"groups": len(hit), "tasks": 5 * sum(counts)} if hit else None
                assert operators.get(op) == expected
        assert executable.statistics()["last"]["tasks"] == 3 * (2 + 2 * 5 * sum(counts))
        assert sum(found["tasks"] for found in operators.values()) == executable.statistics()["last"]["tasks"]


def test_after_a_failure_a_stale_list_wakes_nobody(pool):
    """The second layer's list is where the first one's was, and is not written in this step."""
    chosen = choice(EXPERTS, [3, 5], [1, 1])
    executable = pool.load(routed_program(2, chosen, tiles=2, between="fail", first=0, code=9), TABLE)
    for _ in range(20):
        with pytest.raises(StepError, match=r"fail\.3: .* code 9"):
            executable.run(one_row())
        ran = set(executable.statistics()["operators"])
        assert ran == {"choose.0", "empty.1", "empty.2", "fail.3", "choose.4", "fail.7"}


def lines_run(work):
    """What `work()` returns, and how many lines of Python it takes."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return work(), count
    finally:
        sys.settrace(before)


def test_thousands_of_experts_cost_what_is_woken_of_them():
    """DeepSeek-V3's count of groups: loading has no loop in Python over them, and a step runs what it wakes."""
    found = []
    for experts in (8, 256):
        chosen = choice(experts, list(range(0, experts, experts // 8)), [1] * 8)
        program = routed_program(58, chosen, tiles=16)
        with Pool() as pool:
            executable, lines = lines_run(lambda: pool.load(program, TABLE))  # noqa: B023 - called at once
            executable.run(one_row())
            assert executable.statistics()["last"]["tasks"] == 58 * (2 + 2 * 8 * 16)
        found.append((len(program.groups), lines))
    (few, lines_of_few), (many, lines_of_many) = found
    assert many > 20 * few and lines_of_many == lines_of_few > 0


def test_reference_order():
    two, none = choice(4, [2, 1], [3, 1]), choice(4, [], [])
    assert order(routed_program(1, two, tiles=2), two) == [(0, 1), (3, 6), (2, 2), (7, 6), (6, 2), (9, 1)]
    assert order(routed_program(1, none, tiles=2), none) == [(0, 1), (9, 1)]


@pytest.mark.parametrize(
    ("hit", "message"),
    [([1, 1], "published twice"), ([1, 4], "wakes expert 4, but group 5 is that of 0"), ([8], "which the step sizes")],
)
def test_reference_order_of_a_wrong_list(hit, message):
    chosen = choice(4, [0] * len(hit), [1] * len(hit))
    chosen[1 : 1 + len(hit)] = hit
    with pytest.raises(AssertionError, match=message):
        order(routed_program(1, chosen, tiles=2), chosen)


def test_reference_order_of_a_join_that_is_signalled_early():
    chosen = choice(4, [1], [1])
    program = routed_program(1, chosen, tiles=2)
    program.triggers.begin[2:] += 1  # the first expert's event triggers the join, whose only signal was the expert's
    program.triggers.items = np.array([4], np.int32)
    with pytest.raises(AssertionError, match="more than its 1 signals"):
        order(program, chosen)


@pytest.mark.parametrize(
    ("field", "value"), [("group", 10), ("first", -1), ("join", 99), ("list", 1 << 20)], ids=lambda value: str(value)
)
def test_a_wake_out_of_range_is_refused(field, value):
    program = routed_program(1, choice(4, [1], [1]), tiles=2)
    program.wakes[field] = value
    with Pool(threads=1) as pool, pytest.raises(ValueError, match=f"wakes.{field}"):
        pool.load(program, TABLE)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("counts", 1 << 20, r"groups\.counts"),
        ("tiles", (1 << 20) - 1, "tasks of an expert"),
        ("block", 30, r"counts \+ block"),
    ],
)
def test_an_expert_out_of_range_is_refused(field, value, message):
    program = routed_program(1, choice(4, [1], [1]), tiles=2)
    program.blocks, program.row_block = 2, EXPERT_ROWS
    program.groups[field][1] = value
    with Pool(threads=1) as pool, pytest.raises(ValueError, match=message):
        pool.load(program, TABLE)
