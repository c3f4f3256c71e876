"""A trace tells of every task once, on the core that ran it and after all that it waited for; idle time fills gaps."""

import os
import resource
import time

import numpy as np
import pytest
from block_programs import BlockProgram, random_step
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ellm.scheduler import Pool, StepError
from ellm.scheduler.probe_program import TABLE, ProbeGroup, choice, one_row, probe_program, routed_program
from ellm.scheduler.rings import RECORD
from ellm.scheduler.spans import Activity

TASKS = (Activity.TASK, Activity.STOLEN)


@pytest.fixture(scope="module", params=[1, 2, 3, 4])
def pool(request):
    """More workers than cores included: then a worker loses its core at any moment."""
    with Pool(cores=(sorted(os.sched_getaffinity(0)) * 4)[: request.param]) as pool:
        yield pool


def only(spans, *what):
    return spans[np.isin(spans["what"], what)]


def check_order(graph, step, tasks):
    """One step's tasks: those of the reference order, each once, after all tasks of the groups that theirs follows."""
    ends = {}
    for group in np.unique(tasks["group"]).tolist():
        own = tasks[tasks["group"] == group]
        assert sorted(own["index"]) == list(range(len(own)))
        ends[group] = own["end_ns"].max()
    extents = {group: int(extent) for group, extent in enumerate(graph.extents) if extent}
    assert {group: int(np.count_nonzero(tasks["group"] == group)) for group in ends} == extents, f"step {step}"
    for group in ends:
        start = tasks["start_ns"][tasks["group"] == group].min()
        assert all(ends[source] <= start for source in graph.sources[group] if source in ends)


def check_workers(spans, threads):
    """Within a step, what a worker does happens one after the other and inside of its part in the step."""
    for worker in range(threads):
        own = spans[spans["worker"] == worker]
        for step in np.unique(own["step"]):
            done = own[own["step"] == step]
            (join,) = only(done, Activity.JOIN)
            inner = done[done["what"] < Activity.JOIN]
            assert (inner["start_ns"] <= inner["end_ns"]).all()
            assert (inner["end_ns"][:-1] <= inner["start_ns"][1:]).all()
            assert (inner["start_ns"] >= join["start_ns"]).all() and (inner["end_ns"] <= join["end_ns"]).all()


@given(random=st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tasks_of_random_programs(pool, random):
    graph = BlockProgram(random)
    executable = graph.load(pool)
    graph.check_step(executable, random_step(random, graph.program))
    with executable.trace() as trace:
        for _ in range(4):
            graph.choose(random)
            graph.check_step(executable, random_step(random, graph.program))
            spans = trace.spans()
            tasks = only(spans[spans["step"] == executable.number], *TASKS)
            assert len(tasks) == executable.statistics()["last"]["tasks"]
            check_order(graph, executable.number, tasks)
        check_workers(spans, pool.threads)
    graph.check_step(executable, random_step(random, graph.program))
    assert len(trace.spans()) == len(spans) and trace.dropped == 0
    steps = only(spans, Activity.STEP)
    assert steps["step"].tolist() == list(range(executable.number - 4, executable.number))
    assert (steps["worker"] == pool.threads).all() and (steps["core"] == -1).all()


def test_what_the_workers_of_an_unequal_step_do():
    """One long task: the other worker steals what it can, then waits and goes to sleep until the next group."""
    groups = [
        ProbeGroup(4, kernel="slow", args={"first": 0, "last": 0, "ns": 20_000_000}),
        ProbeGroup(1, after=[0]),
    ]
    cores = sorted(os.sched_getaffinity(0))
    with Pool(cores=(cores * 2)[:2]) as pool:
        executable = pool.load(probe_program(groups), TABLE)
        with executable.trace() as trace:
            for _ in range(10):
                begin = time.perf_counter_ns()
                executable.run(one_row())
                end = time.perf_counter_ns()
        spans = trace.spans()
    steps = only(spans, Activity.STEP)
    assert len(steps) == 10 and begin <= steps["start_ns"][-1] < steps["end_ns"][-1] <= end
    long = only(spans, *TASKS)
    long = long[(long["group"] == 0) & (long["index"] == 0)]
    assert len(long) == 10
    parked = only(spans, Activity.PARK)
    begins, ends = (np.subtract.outer(parked[field], long[field]) for field in ("start_ns", "end_ns"))
    assert ((begins > 0) & (begins < 20_000_000) & (ends > 0)).any(), "nobody slept through the rest of a long task"
    assert set(parked["group"].tolist()) <= {1, -1}
    assert np.isin(Activity.STOLEN, spans["what"])


def test_a_full_ring_drops_and_counts(pool):
    executable = pool.load(probe_program([ProbeGroup(100)]), TABLE)
    with executable.trace(capacity=30) as trace:
        for _ in range(4):
            executable.run(one_row())
    spans = trace.spans()
    per_worker = np.bincount(spans["worker"], minlength=pool.threads + 1)
    assert per_worker.max() == 30 and trace.dropped >= 400 - 30 * pool.threads
    assert trace.whole_before == 1
    assert len(only(spans, Activity.STEP)) == 4  # the caller's ring is its own
    check = only(spans, *TASKS)
    assert (check["start_ns"] <= check["end_ns"]).all()


def test_steps_before_the_first_that_did_not_fit_are_whole(pool):
    executable = pool.load(probe_program([ProbeGroup(100)]), TABLE)
    with executable.trace(capacity=300) as trace:
        for _ in range(2):
            executable.run(one_row())
        assert trace.whole_before is None
        for _ in range(10 * pool.threads):
            executable.run(one_row())
    assert trace.dropped and 2 <= trace.whole_before <= 3 * pool.threads + 1
    tasks = only(trace.spans(), *TASKS)
    counts = np.bincount(tasks["step"])[1:]
    assert (counts[: trace.whole_before - 1] == 100).all() and (counts[trace.whole_before - 1 :] < 100).any()


def test_memory_for_records_is_there_before_a_step_runs(pool):
    executable = pool.load(probe_program([ProbeGroup(50_000)]), TABLE)
    executable.run(one_row())
    with executable.trace(capacity=120_000) as trace:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(2):
            executable.run(one_row())
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    pages = len(trace.spans()) * RECORD.itemsize // resource.getpagesize()
    assert faults < pages / 4


def test_a_cleared_trace_has_room_again(pool):
    executable = pool.load(probe_program([ProbeGroup(100)]), TABLE)
    with executable.trace(capacity=400) as trace:
        for number in range(1, 9):
            trace.resume()
            executable.run(one_row())
            trace.pause()
            assert trace.dropped == 0
            assert only(trace.spans(), Activity.STEP)["step"].tolist() == [number]
            trace.clear()
    assert not len(trace.spans())


def test_a_paused_trace_records_nothing_and_goes_on(pool):
    executable = pool.load(probe_program([ProbeGroup(7)]), TABLE)
    with executable.trace() as trace:
        executable.run(one_row())
        trace.pause()
        executable.run(one_row())
        trace.resume()
        executable.run(one_row())
    assert only(trace.spans(), Activity.STEP)["step"].tolist() == [1, 3]
    assert len(only(trace.spans(), *TASKS)) == 14


def test_a_step_that_fails_is_recorded_up_to_the_failure():
    with Pool(threads=1) as pool:
        groups = [ProbeGroup(3, kernel="fail", args={"first": 1, "code": 5}), ProbeGroup(2, after=[0])]
        executable = pool.load(probe_program(groups), TABLE)
        with executable.trace() as trace, pytest.raises(StepError):
            executable.run(one_row())
        spans = trace.spans()
    assert only(spans, *TASKS)["index"].tolist() == [0, 1]
    assert len(only(spans, Activity.STEP)) == 1


def test_what_is_watched_is_copied_when_the_waking_group_is_done(pool):
    """Both layers write their lists to the same place: each copy is that of its own layer's group, in this step."""
    chosen = choice(9, [], [])
    program = routed_program(2, chosen, tiles=3)
    executable = pool.load(program, TABLE)
    copies = executable.watch([(64, 3), (64, 3)])
    with executable.trace() as trace:
        for hit in ([4, 7], [2, 5]):
            chosen[:] = choice(9, hit, [1, 1])
            executable.run(one_row())
            assert [copy[executable.number % 2].tolist() for copy in copies] == [[2, *hit]] * 2
            spans = only(trace.spans(), *TASKS)
            ran = spans[(spans["step"] == executable.number) & (spans["op"] % 4 == 1)]
            assert sorted(set(ran["block"].tolist())) == hit
    chosen[:] = choice(9, [1, 3], [1, 1])
    executable.run(one_row())
    assert copies[0].tolist() == [[2, 2, 5], [2, 4, 7]], "nothing is copied while nothing is recorded"
    with pytest.raises(ValueError, match="the arena has"):
        executable.watch([(64, 3), (program.arena_bytes - 4, 3)])
