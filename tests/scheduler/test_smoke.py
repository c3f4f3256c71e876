import threading

import numpy as np
import pytest

from ellm.kernels.isa import Table
from ellm.scheduler import Pool, saved
from ellm.scheduler.probe_program import TABLE, ProbeGroup, one_row, probe_program
from ellm.scheduler.program import Lists
from ellm.system.errors import InputError


def test_one_task():
    with Pool(threads=1) as pool:
        executable = pool.load(probe_program([ProbeGroup(1)]), TABLE)
        executable.run(one_row())
        executable.run(one_row())
        assert executable.number == 2
        assert executable.statistics()["total"]["tasks"] == 2
        assert executable.statistics()["last"]["tasks"] == 1


def test_what_fails_meanwhile_fails_behind_the_step():
    with Pool() as pool:
        executable = pool.load(probe_program([ProbeGroup(3)]), TABLE)
        called = []
        executable.run(one_row(), lambda: called.append(executable.number))
        with pytest.raises(ZeroDivisionError):
            executable.run(one_row(), lambda: 1 // 0)
        executable.run(one_row())
        assert called == [1] and executable.statistics()["total"]["tasks"] == 9


def test_a_saved_program_runs_the_same(tmp_path):
    groups = [ProbeGroup(3), ProbeGroup(5, [0]), ProbeGroup(2, [0, 1])]
    saved.save(probe_program(groups), tmp_path / "program.npz")
    with Pool() as pool:
        executable = pool.load(saved.load(tmp_path / "program.npz"), TABLE)
        executable.run(one_row())
        assert executable.statistics()["last"]["tasks"] == 10


def test_steps_from_many_threads_take_turns():
    with Pool() as pool:
        executables = [pool.load(probe_program([ProbeGroup(4), ProbeGroup(4, [0])]), TABLE) for _ in range(2)]

        def steps(executable):
            for _ in range(200):
                executable.run(one_row())

        threads = [threading.Thread(target=steps, args=[executables[i % 2]]) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [executable.statistics()["total"]["tasks"] for executable in executables] == [3200, 3200]


def test_the_gil_is_free_during_a_step():
    program = probe_program([ProbeGroup(1, kernel="slow", args={"ns": 300_000_000})])
    with Pool(threads=1) as pool:
        executable = pool.load(program, TABLE)
        thread = threading.Thread(target=executable.run, args=[one_row()])
        thread.start()
        turns = 0
        while thread.is_alive():
            thread.join(0.001)
            turns += 1
        assert turns > 5


def test_a_kernel_that_the_table_lacks_is_named():
    with Pool(threads=1) as pool, pytest.raises(InputError, match="few kernels lack slow"):
        pool.load(probe_program([ProbeGroup(1, kernel="slow")]), Table("few", {}, TABLE.enter, TABLE.leave))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("end", 7),
        ("roots", np.array([3], np.int32)),
        ("signals", Lists.of([[0], [9]])),
        ("publishes", Lists.of([[1]])),
        ("relocations", np.array([[0, 300]], np.int32)),
    ],
)
def test_a_program_with_a_number_out_of_range_is_refused(field, value):
    program = probe_program([ProbeGroup(1), ProbeGroup(1, [0])])
    setattr(program, field, value)
    with Pool(threads=1) as pool, pytest.raises(ValueError, match=field):
        pool.load(program, TABLE)
