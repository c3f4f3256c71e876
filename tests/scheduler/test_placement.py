"""Where workers go: away from those of other processes, onto idle cores, or where they are told."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_machine import eight_threads, machine

from ellm.scheduler import Pool, claims, topology
from ellm.scheduler.placement import ALWAYS_NS, LINGER_NS, SPIN_NS, place
from ellm.scheduler.probe_program import TABLE, ProbeGroup, one_row, probe_program
from ellm.system.errors import InputError

ALLOWED = sorted(os.sched_getaffinity(0))
two_cores = pytest.mark.skipif(len(ALLOWED) < 2, reason="needs two cores")
HOLD = "from ellm.scheduler import Pool\nwith Pool({}) as pool: print(pool.placement, flush=True), input()"
STAT = "cpu{} {} 0 0 {} 0 0 0 0 0 0"


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No pool of another test is seen."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def eight(tmp_path, monkeypatch):
    """Four cores with two threads each."""
    monkeypatch.setattr(topology, "allowed_cores", lambda: list(range(8)))
    return eight_threads(tmp_path)


@contextlib.contextmanager
def holding(*arguments):
    """Processes that hold a pool each, started at the same moment, and what they say of it."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([sys.executable, "-c", HOLD.format(each)], **pipes) for each in arguments]
    try:
        yield started, [process.stdout.readline().strip() for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


@two_cores
def test_two_processes_that_start_together_take_different_cores():
    with holding("1", "1") as (_, said):
        cores = [line.split()[4] for line in said]
    assert len(set(cores)) == 2, said
    assert not any("shared" in line for line in said)


@two_cores
def test_a_process_takes_what_another_has_left_until_that_ends():
    free = len(topology.choose_cores(None)) - 1
    with holding("1") as ([other], [said]):
        found = place(None)
        found.claim.close()
        assert int(said.split()[4]) not in found.cores and len(found.cores) == free
        assert found.reason == f"the others are used by ellm process {other.pid}"
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        alone = place(None)
        alone.claim.close()
        assert len(alone.cores) == free + 1


def test_where_no_core_is_free_all_are_shared_and_it_is_said():
    with holding("") as ([other], _), Pool() as pool:
        assert len(pool.cores) == len(topology.choose_cores(None))
        assert str(pool.placement).endswith(f", shared with ellm process {other.pid})")


def test_a_closed_pool_gives_its_cores_up():
    with Pool() as first:
        assert "shared with this process" in place(None).reason
    assert place(None).cores == first.cores
    assert "shared" not in place(None).reason


def test_a_fork_gives_nothing_up(tmp_path):
    with Pool() as pool:
        child = os.fork()
        if child == 0:
            pool.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert "shared with this process" in place(None).reason


@pytest.mark.parametrize(
    ("users", "busy", "threads", "cores"),
    [
        ({}, set(), None, [0, 1, 2, 3]),
        ({0: 1, 5: 1}, set(), None, [2, 3]),  # 5 is the other half of 1
        ({0: 1, 1: 1, 2: 1, 3: 2}, set(), None, [0, 1, 2, 3]),
        ({0: 1, 1: 1, 2: 1, 3: 2}, set(), 3, [0, 1, 2]),
        ({}, {0, 6}, 2, [1, 3]),
        ({}, {0, 6}, 3, [0, 1, 3]),
        ({1: 1}, {0}, 3, [0, 2, 3]),
        ({0: 1}, {5}, 5, [0, 1, 2, 3, 6]),
    ],
)
def test_free_cores_come_first_then_idle_ones(eight, users, busy, threads, cores):
    assert topology.choose_cores(threads, eight, users=users, busy=busy) == cores


def test_a_quota_takes_the_idlest(eight, monkeypatch):
    machine(eight, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "200000 100000"})
    monkeypatch.setattr(topology, "busy_cores", lambda root: frozenset({0}))
    found = place(None, root=eight)
    assert (found.cores, found.reason) == ([1, 2], "the cgroup quota is 2, the idlest")


def test_why_is_said(eight):
    machine(eight, {"sys/devices/system/cpu/online": "0-7"})
    assert str(place(None, root=eight)) == "4 threads on cores 0-3 (every physical core)"
    machine(eight, {"sys/devices/system/cpu/online": "0-63"})
    assert place(None, root=eight).reason == "every physical core of the affinity mask"
    assert str(place(None, "1,6-7", root=eight)) == "3 threads on cores 1,6-7 (asked for)"
    assert str(place(2, "none", root=eight)) == "2 threads on any core (not pinned, as asked for)"
    assert place(6, root=eight).reason == "asked for"


def test_busy_is_measured_over_a_window(tmp_path, monkeypatch):
    """Of ten ticks: core 0 has worked nine, core 1 two, core 2 is on the disk."""
    machine(tmp_path, {"proc/stat": "\n".join(["cpu 1 1 1", *(STAT.format(core, 100, 100) for core in range(3))])})
    after = ["cpu 1 1 1", STAT.format(0, 109, 101), STAT.format(1, 102, 108), "cpu2 100 0 0 100 10 0 0 0 0 0", "intr 5"]
    monkeypatch.setattr(time, "sleep", lambda _: machine(tmp_path, {"proc/stat": "\n".join(after)}))
    assert topology.busy_cores(tmp_path, 10 / os.sysconf("SC_CLK_TCK")) == {0}


@pytest.mark.parametrize(
    ("pin", "threads", "line"),
    [
        ("some", None, "pin: 'some' is neither auto, none nor a list of cores such as 0-3,8"),
        ("0,,1", None, "pin: '0,,1' is neither auto"),
        ("", None, "pin: '' is neither auto"),
        ("0-99999999999", None, "pin: '0-99999999999' is neither auto"),
        ("6-8", None, "pin: 6-8: core 8 cannot be used, the affinity mask has 0-7"),
        ("0-999999", None, "pin: 0-999999: core 8 cannot be used"),
        ("3-1", None, "pin: 3-1: no core"),
        ("0-2,1", None, "pin: 0-2,1: core 1 is named twice"),
        ("0-2", 4, "threads: 4 asked for, but pin: 0-2 names 3"),
        ("0-2", 0, "threads: 0 asked for"),
        (3, None, "pin must be auto, none or a list of cores such as 0-3,8, not 3"),
    ],
)
def test_a_bad_list_is_one_line(eight, pin, threads, line):
    with pytest.raises(InputError) as refused:
        place(threads, pin, eight)
    assert str(refused.value).startswith(line) and "\n" not in str(refused.value)


def test_a_list_may_not_exceed_the_quota(eight):
    machine(eight, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "200000 100000"})
    with pytest.raises(InputError, match=r"threads: 3 asked for, but .* the cgroup quota 2"):
        place(None, "0-2", eight)
    assert place(2, "0-2", eight).cores == [0, 1]


def test_workers_are_not_pinned_if_told_so():
    with Pool(1, pin="none") as pool:
        [worker] = [task for task in Path("/proc/self/task").iterdir() if (task / "comm").read_text() == "ellm-0\n"]
        assert sorted(os.sched_getaffinity(int(worker.name))) == ALLOWED
        assert pool.placement.names == ["worker 0"]
        assert claims.claimed(claims.folder()) == []


def test_what_is_no_claim_counts_for_nothing(tmp_path):
    """Left behind by a process that was killed, or by nobody of ours."""
    place(None).claim.close()
    folder = tmp_path / "ellm"
    for name, text in {"77-left": "0-3", "note": "0", "78-bad": "x", "79-": ""}.items():
        (folder / name).write_text(text)
    (folder / "80-link").symlink_to("/etc/passwd")
    assert claims.claimed(claims.folder()) == []
    assert {path.name for path in folder.iterdir()} == {"door", "note", "80-link"}


def test_without_a_place_for_claims_workers_go_where_they_would(monkeypatch):
    monkeypatch.setattr(claims, "folder", lambda: None)
    with Pool() as pool:
        assert pool.cores == topology.choose_cores(None)


def test_who_owns_cores_watches_and_who_shares_them_sleeps(eight):
    """Four physical cores; between steps Python needs one."""
    for threads, pin, in_step, between in (
        (4, "auto", ALWAYS_NS, SPIN_NS),
        (3, "auto", ALWAYS_NS, LINGER_NS),
        (5, "auto", SPIN_NS, SPIN_NS),
        (None, "0-2", ALWAYS_NS, LINGER_NS),
        (None, "0,4", SPIN_NS, SPIN_NS),
        (2, "none", SPIN_NS, SPIN_NS),
    ):
        placement = place(threads, pin, eight)
        assert (placement.spin_ns, placement.linger_ns) == (in_step, between), (threads, pin)
        placement.claim.close()
    with contextlib.closing(place(None, "0", eight).claim):
        shared = place(None, "0-1", eight)
        assert shared.spin_ns == SPIN_NS
        shared.claim.close()
    machine(eight, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "300000 100000"})
    assert place(3, "auto", eight).spin_ns == SPIN_NS
    assert (
        place(None, "none", eight).waiting == "a worker sleeps after 30 us in a step, sleeps after 30 us between steps"
    )


@two_cores
def test_a_worker_with_its_own_core_does_not_sleep_in_a_step():
    groups = [ProbeGroup(1, kernel="slow", args={"first": 0, "last": 0, "ns": 20_000_000}), ProbeGroup(2, [0])]
    with Pool() as pool:
        executable = pool.load(probe_program(groups), TABLE)
        for _ in range(3):
            executable.run(one_row())
        parks = executable.statistics()["total"]["parks"]
    assert pool.placement.owned or parks > 0
