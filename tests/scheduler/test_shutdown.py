import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ellm.scheduler import Pool
from ellm.scheduler.probe_program import TABLE, ProbeGroup, one_row, probe_program

SLOW = ProbeGroup(1, kernel="slow", args={"ns": 200_000_000})


def own_threads() -> int:
    return sum(task.joinpath("comm").read_text().startswith("ellm-") for task in Path("/proc/self/task").iterdir())


@pytest.mark.parametrize("idle", [0.0, 0.05], ids=["spinning", "parked"])
def test_close_ends_the_threads(idle):
    before = own_threads()
    pool = Pool()
    executable = pool.load(probe_program([ProbeGroup(4)]), TABLE)
    executable.run(one_row())
    assert own_threads() == before + pool.threads
    time.sleep(idle)
    pool.close()
    pool.close()
    assert own_threads() == before
    with pytest.raises(RuntimeError, match="closed"):
        executable.run(one_row())


def test_close_before_any_step():
    for _ in range(50):
        Pool().close()


def test_a_forgotten_pool_ends_its_threads():
    before = own_threads()
    pool = Pool()
    pool.load(probe_program([ProbeGroup(4)]), TABLE).run(one_row())
    del pool
    assert own_threads() == before


def test_close_waits_for_the_step():
    pool = Pool()
    executable = pool.load(probe_program([SLOW]), TABLE)
    runner = threading.Thread(target=executable.run, args=[one_row()])
    runner.start()
    while not executable.number:
        time.sleep(0.001)
    pool.close()
    runner.join()
    assert executable.statistics()["total"]["tasks"] == 1


@pytest.mark.parametrize(
    "ending", ["", "raise SystemExit(0)", "from threading import Thread as T; T(target=run).start()"]
)
def test_the_interpreter_exits_with_a_pool_open(ending):
    script = f"""
from ellm.scheduler import Pool
from ellm.scheduler.probe_program import TABLE, ProbeGroup, one_row, probe_program
pool = Pool()
executable = pool.load(probe_program([ProbeGroup(1, kernel="slow", args={{"ns": 50_000_000}})]), TABLE)
run = lambda: executable.run(one_row())
run()
{ending}
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
