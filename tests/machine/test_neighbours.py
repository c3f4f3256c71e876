"""Who else is on the cores, as `doctor` tells."""

import os
import subprocess
import sys
import time

from fake_machine import machine

from ellm.cli.doctor import other_lines
from ellm.machine.neighbours import neighbours

CORE = sorted(os.sched_getaffinity(0))[0]


def stat(tid, name, ticks, core):
    fields = ["S", *["0"] * 10, str(ticks), "0", *["0"] * 23, str(core), "0"]
    return f"{tid} ({name}) {' '.join(fields)}"


def proc(*threads):
    """Files of threads (pid, tid, name, ticks, core, cores that it may be on)."""
    files = {}
    for pid, tid, name, ticks, core, allowed in threads:
        files[f"proc/{pid}/task/{tid}/stat"] = stat(tid, name, ticks, core)
        files[f"proc/{pid}/task/{tid}/status"] = f"Name:\t{name}\nCpus_allowed_list:\t{allowed}"
    return files


def test_processes_are_told_from_their_threads(tmp_path, monkeypatch):
    second = os.sysconf("SC_CLK_TCK")
    before = [
        (10, 10, "ellm", 5, 0, "0-7"), (10, 11, "ellm-0", 0, 2, "2"), (10, 12, "ellm-1", 0, 3, "3"),
        (20, 20, "cc1 (x) y", 0, 5, "0-7"), (20, 21, "late", 0, 6, "0-7"), (30, 30, "asleep", 9, 1, "0-7"),
        (os.getpid(), 40, "own", 0, 1, "0-7"),
    ]  # fmt: skip
    ran = {11: second, 20: second // 2, 21: second // 4, 40: second}
    after = [(pid, tid, name, ticks + ran.get(tid, 0), *rest) for pid, tid, name, ticks, *rest in before]
    machine(tmp_path, proc(*before))
    monkeypatch.setattr(time, "sleep", lambda _: machine(tmp_path, proc(*after)))
    assert other_lines(neighbours(tmp_path, 1.0)) == [
        "others       ellm process 10: 2 workers on cores 2-3, 1.00 cores' time",
        "             cc1 (x) y (20): 0.75 cores' time, on 5-6",
    ]


def test_nobody_else_is_a_line_too(tmp_path):
    assert other_lines(neighbours(tmp_path, 0)) == [
        "others       no other ellm process, and nothing else uses the cores"
    ]


def test_a_real_process_is_found():
    script = f"from ellm.scheduler import Pool\nwith Pool(cores=[{CORE}]): print(flush=True), input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as other:
        other.stdout.readline()
        [found] = [one for one in neighbours(seconds=0.01) if one.pid == other.pid]
        other.stdin.write(b"\n")
    assert (found.workers, found.worker_cores) == (1, {CORE})
    assert f"ellm process {other.pid}: 1 worker on cores {CORE}, " in "\n".join(other_lines([found]))
