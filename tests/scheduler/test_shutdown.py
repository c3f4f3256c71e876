import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ellm.scheduler import Pool
from ellm.scheduler.probe_program import TABLE, ProbeGroup, one_row, probe_program

SLOW = ProbeGroup(1, kernel="slow", args={"ns": 200_000_000})


OPEN_POOL = """
from ellm.scheduler import Pool
from ellm.scheduler.probe_program import TABLE, ProbeGroup, one_row, probe_program
pool = Pool()
executable = pool.load(probe_program([ProbeGroup(1, kernel="slow", args={"ns": 50_000_000})]), TABLE)
run = lambda: executable.run(one_row())
run()
"""


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


THREAD = "from threading import Thread as T; T(target=run, daemon={}).start()"


@pytest.mark.parametrize("ending", ["", "raise SystemExit(0)", THREAD.format(False), THREAD.format(True)])
def test_the_interpreter_exits_with_a_pool_open(ending):
    done = subprocess.run([sys.executable, "-c", OPEN_POOL + ending], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_fork_neither_runs_nor_stops_the_workers():
    ending = """
import os
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
    run()
else:
    try:
        run()
    except RuntimeError as error:
        assert "fork" in str(error)
    pool.close()
    del executable, run, pool
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", OPEN_POOL + ending]
    done = subprocess.run(command, timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupt_takes_effect_when_the_step_has_ended():
    ending = """
print("ready", flush=True)
try:
    while True:
        run()
except KeyboardInterrupt:
    done = executable.statistics()["total"]["tasks"]
    run()
    assert done == executable.number - 1
    print("interrupted")
"""
    with subprocess.Popen([sys.executable, "-c", OPEN_POOL + ending], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[0] == "interrupted\n"
    assert process.returncode == 0
