"""Steps that follow one another without their caller: with what was drawn, until something speaks against it."""

import os
import threading
import time

import numpy as np
import pytest
from follow import Chain

from ellm.scheduler import Pool, StepError, StepInput, Successor
from ellm.scheduler.probe_program import TABLE, ProbeGroup, one_row, probe_program

GROUPS = [ProbeGroup(5), ProbeGroup(7, [0]), ProbeGroup(1, [1]), ProbeGroup(9, [2])]
TASKS = 22


@pytest.fixture(params=[1, 2, 13])
def pool(request):
    allowed = sorted(os.sched_getaffinity(0))
    with Pool(cores=(allowed * request.param)[: request.param]) as pool:
        yield pool


def loaded(pool, groups=GROUPS):
    return pool.load(probe_program(groups), TABLE)


@pytest.mark.parametrize("rows", [1, 3])
def test_each_step_has_the_tokens_that_the_one_before_drew(pool, rows):
    executable, chain = loaded(pool), Chain(300, rows)
    chain.run(executable)
    assert chain.called == executable.number == 300
    assert chain.tokens == [[0] * rows, *(chain.drawn(n).tolist() for n in range(299))]
    expected = np.array([chain.drawn(n) for n in range(299)]).T
    assert np.array_equal(chain.histories[:, 1:300], expected) and np.all(chain.histories[:, 0] == -1)
    assert executable.statistics()["total"]["tasks"] == 300 * TASKS
    assert executable.statistics()["last"]["tasks"] == TASKS


@pytest.mark.parametrize("late", [0.0, 0.002], ids=["asked in time", "asked too late"])
def test_a_token_that_ends_a_row_ends_the_run(pool, late):
    executable = loaded(pool)
    chain = Chain(50, 2, ends=[77, 41], before=lambda number: time.sleep(late))
    chain.run(executable)
    assert chain.called == 5, "step 4 draws 40 and 41"
    assert executable.number == 5 and executable.statistics()["total"]["tasks"] == 5 * TASKS
    chain = Chain(6, 2, before=lambda number: time.sleep(late))
    chain.run(executable)
    assert chain.called == 6 and executable.number == 11


def test_hold_ends_the_run_with_the_step_that_is_under_way(pool):
    executable = loaded(pool, [ProbeGroup(1, kernel="slow", args={"ns": 20_000_000})])
    chain = Chain(100)

    def hold():
        while chain.called < 3:
            time.sleep(0.001)
        time.sleep(0.005)  # the step that follows the third has been asked for
        executable.hold()

    thread = threading.Thread(target=hold)
    thread.start()
    chain.run(executable)
    thread.join()
    assert 3 <= chain.called <= 5 and executable.number == chain.called
    chain = Chain(4)
    chain.run(executable)
    assert chain.called == 4, "the next run is another one"


def test_who_asks_of_the_last_step_waits_for_no_more_than_that(pool):
    executable, asked, stop = loaded(pool), [], threading.Event()

    def ask():
        while not stop.is_set():
            assert executable.statistics()["last"]["tasks"] in (0, TASKS)
            assert len(executable.ran()) in (0, len(GROUPS))
            asked.append(executable.number)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        while len(asked) < 20:
            chain = Chain(50)
            chain.run(executable)
            assert chain.tokens[1:] == [chain.drawn(n).tolist() for n in range(chain.called - 1)]
    finally:
        stop.set()
        thread.join()


def test_nothing_follows_a_failed_step(pool):
    fails = ProbeGroup(3, [0], kernel="fail", args={"first": 2, "code": 9})
    executable = loaded(pool, [ProbeGroup(2), fails])
    with pytest.raises(StepError) as error:
        Chain(10).run(executable)
    assert error.value.code == 9 and executable.number == 1
    with pytest.raises(StepError):
        executable.run(one_row())
    assert executable.number == 2


def test_what_fails_meanwhile_ends_the_run_behind_its_step(pool):
    executable = loaded(pool)

    def fail(number):
        if number == 4:
            raise ZeroDivisionError

    chain = Chain(10, before=fail)
    with pytest.raises(ZeroDivisionError):
        chain.run(executable)
    assert executable.number == 4 and executable.statistics()["total"]["tasks"] == 4 * TASKS


def test_a_step_of_other_rows_does_not_follow(pool):
    executable = loaded(pool)
    two = Chain(2, 2)
    with pytest.raises(ValueError, match=r"^2 rows follow a step that draws 1 tokens$"):
        executable.run(Chain(2).step(0), lambda: Successor(two.step(1), two.ends))
    with pytest.raises(ValueError, match=r"^1 rows follow a step that draws 1 tokens$"):
        executable.run(Chain(2).step(0), lambda: Successor(StepInput.of([1]), two.ends[:1]))
    assert executable.number == 2


def test_generations_start_anew_within_a_run(pool):
    executable = loaded(pool)
    executable.number = 0xFFFFFF - 5
    chain = Chain(20)
    chain.run(executable)
    assert chain.called == 20 and executable.statistics()["total"]["tasks"] == 20 * TASKS


def test_when_a_step_ended_is_told_while_the_next_one_runs():
    with Pool(threads=1) as pool:
        executable = loaded(pool, [ProbeGroup(1, kernel="slow", args={"ns": 5_000_000})])
        ended = []
        begun = time.perf_counter_ns()
        chain = Chain(5, before=lambda number: ended.append(executable.ended_ns) if number > 1 else None)
        chain.run(executable)
        gaps = np.diff([begun, *ended])
        assert np.all(gaps >= 5_000_000) and ended[-1] < time.perf_counter_ns()
