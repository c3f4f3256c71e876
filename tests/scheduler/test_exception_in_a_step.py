import os

import numpy as np
import pytest

from ellm.scheduler import Pool, StepError
from ellm.scheduler.probe_program import TABLE, ProbeGroup, one_row, probe_program


@pytest.fixture(params=[1, 4])
def pool(request):
    with Pool(cores=(sorted(os.sched_getaffinity(0)) * 4)[: request.param]) as pool:
        yield pool


def test_a_failed_kernel_is_named_and_the_next_step_works(pool):
    marks, offsets, extents = np.zeros(8, np.int64), np.array([0, 0, 0, 4], np.int64), np.array([6, 9, 4, 4], np.int64)
    faults = np.zeros(1, np.uint64)
    trail = {
        "marks": marks.ctypes.data, "offsets": offsets.ctypes.data, "extents": extents.ctypes.data,
        "faults": faults.ctypes.data,
    }  # fmt: skip
    failing = ProbeGroup(9, [0], kernel="fail", args={"first": 5, "code": 42})
    groups = [
        ProbeGroup(6), failing,
        ProbeGroup(4, [0], kernel="trail", args={**trail, "group": 2}),
        ProbeGroup(4, [1, 2], kernel="trail", args={**trail, "group": 3}),
    ]  # fmt: skip
    failed = pool.load(probe_program(groups), TABLE)
    failing.args["first"] = -1
    works = pool.load(probe_program(groups), TABLE)
    for _ in range(50):
        with pytest.raises(StepError, match=r"fail\.1: .* code 42") as error:
            failed.run(one_row())
        assert (error.value.code, error.value.op) == (42, "fail.1")
        assert failed.statistics()["last"]["tasks"] == 23, "tasks are counted, though their kernels are skipped"
        assert not np.any(marks[4:] == failed.number), "a kernel ran after the failure that it depends on"
        marks[:] = 0
        works.run(one_row())
        assert np.all(marks == works.number)
        marks[:] = 0
    assert faults[0] == 0


def test_the_same_executable_recovers(pool):
    """Failure depends on the step: the steps after it run as if nothing had been."""
    program = probe_program([ProbeGroup(3, kernel="fail", args={"first": 2, "code": -7}), ProbeGroup(5, [0])])
    executable = pool.load(program, TABLE)
    for step in range(1, 4):
        with pytest.raises(StepError) as error:
            executable.run(one_row())
        assert error.value.code == -7
        assert executable.statistics()["total"]["tasks"] == 8 * step


def test_rows_that_do_not_fit_start_nothing(pool):
    executable = pool.load(probe_program([ProbeGroup(3)]), TABLE)
    bad = one_row()
    bad.positions = np.array([1 << 20], np.int32)
    with pytest.raises(ValueError, match="positions are 1048576"):
        executable.run(bad)
    executable.run(one_row())
    assert executable.number == 1


def test_a_step_in_which_no_root_has_a_task_is_refused(pool):
    executable = pool.load(probe_program([ProbeGroup(0)]), TABLE)
    with pytest.raises(ValueError, match="no root"):
        executable.run(one_row())
