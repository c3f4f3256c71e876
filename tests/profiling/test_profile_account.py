"""What a profile adds up is what ran: known times, full rings, early ends, and files that cannot be written."""

import os
import re
import signal
import stat
import threading
import time
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from perfetto_trace import read
from tiny import write_checkpoint

from ellm.cli import profile as command_module
from ellm.cli.profile import record
from ellm.llm import LLM
from ellm.profiling import overhead, page, perfetto, recorder, report
from ellm.profiling.account import OUTSIDE, THE_END, Accountant
from ellm.profiling.recorder import DECODE, PREFILL, Recorder, Step
from ellm.scheduler import Pool
from ellm.scheduler.contents import OperatorInfo
from ellm.scheduler.probe_program import TABLE, ProbeGroup, one_row, probe_program
from ellm.scheduler.spans import Activity
from ellm.serving.driver import Driver
from ellm.system import files
from ellm.system.errors import InputError

PROMPT = np.arange(20, 120, dtype=np.int32)
SMALL_RING = 60_000  # bytes of all rings: some of the steps fit


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny", "Qwen3MoeForCausalLM")


@pytest.fixture(scope="module")
def runtime(folder):
    with LLM(folder, chunk=64) as llm:
        yield llm.runtime


@pytest.fixture
def command(monkeypatch, in_process):
    """`in_process` for `ellm profile`, without measuring its cost."""
    monkeypatch.setattr(command_module, "overhead", lambda *_: (0.01, 0.001, 10))
    return partial(in_process, "profile")


# Sums -----------------------------------------------------------------------------------------------------------------

MS = 1_000_000
SLOW = {"a": (8, 2 * MS), "b": (3, 5 * MS)}  # tasks, and how long each runs at least
TRIES = 10  # of a step: one in which no thread lost its core at a bad moment is enough


def slow_program():
    """Two operators whose times are known."""
    groups = [
        ProbeGroup(tiles, after, "slow", {"first": 0, "last": tiles, "ns": ns})
        for (tiles, ns), after in zip(SLOW.values(), ([], [0]), strict=True)
    ]
    program = probe_program(groups)
    program.operators = tuple(OperatorInfo(name, "slow", tiles=tiles) for name, (tiles, _) in SLOW.items())
    return program


@pytest.fixture(scope="module", params=[1, 2, 3])
def slow_accounts(request):
    """Accounts of steps of that program, each on its own."""
    with Pool(cores=(sorted(os.sched_getaffinity(0)) * 3)[: request.param]) as pool:
        executable = pool.load(slow_program(), TABLE)
        steps = []
        with executable.trace() as trace:
            for _ in range(TRIES):
                begin = time.perf_counter_ns()
                executable.run(one_row())
                end = time.perf_counter_ns()
                steps.append(Step(executable.number, DECODE, 0, 1, 0, begin, end, np.zeros(0)))
        accountant = Accountant(executable.program, trace.spans(), pool.cores, trace.dropped)
        return [accountant.account([step]) for step in steps]


def test_no_kernel_is_shorter_than_it_was(slow_accounts):
    for account in slow_accounts:
        workers = len(account.cores)
        for kind, total in account.kinds.items():
            tasks, ns = SLOW[kind.name]
            assert total.tasks == tasks
            assert total.kernel_ns * workers >= tasks * ns * 0.999, "the clock of the records runs slow"


def test_what_was_recorded_sums_to_the_measured_step(slow_accounts):
    """All but `schedule` is recorded; that is what remains, so with it the sum would be right whatever was lost."""
    recorded = []
    for account in slow_accounts:
        assert all(ns >= 0 for core in account.cores for ns in core.values())
        assert account.kernel_ns == pytest.approx(sum(core["kernel"] for core in account.cores) / len(account.cores))
        recorded.append(min((core.total() - core["schedule"]) / account.ns for core in account.cores))
    assert max(recorded) == pytest.approx(1, abs=0.02)


def test_waits_of_a_core_are_its_idle_time(slow_accounts, runtime):
    for account in [*slow_accounts, *record(runtime, PROMPT, 5).accounts()]:
        for core, waits in zip(account.cores, account.waits, strict=True):
            assert waits.total() == core["wait"] + core["steal"] + core["park"]
        assert sum(account.waits, Counter()).keys() <= {*(kind.name for kind in account.kinds), THE_END}


def test_the_report_names_the_waits_of_each_core(runtime):
    found = record(runtime, PROMPT, 5)
    account = found.accounts()[0]
    account.waits[0] = Counter({"layers.*.qkv": 3 * MS, "logits": MS, THE_END: 100})
    lines = report.wait_lines(account, ["core 7", "core 9"][: len(account.waits)])
    assert "  core 7: layers.*.qkv 3.000, logits 1.000" in lines


def test_what_the_engine_does_between_steps_is_told(runtime):
    found = record(runtime, PROMPT, 5)
    for account in found.accounts():
        assert any(
            re.match(r"Before each step, the engine took \d+ µs", line) for line in report.outside_lines(account)
        )
    gaps = [after.begin_ns - before.end_ns for before, after in pairwise(found.steps)]
    told = [step.gap_ns for step in found.steps]
    assert told[0] is None and told[1] > 0, "the first token's step waits for the engine"
    assert all(0 <= step <= gap for step, gap in zip(told[1:], gaps, strict=True))
    assert told[-2:] == [0, 0], "later ones follow at once"


# Full rings -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_rings(monkeypatch):
    monkeypatch.setattr(recorder, "RING_BYTES", SMALL_RING)


def test_steps_that_did_not_fit_are_left_out_as_a_whole(runtime, small_rings):
    found = record(runtime, PROMPT, 80)
    assert found.accountant.dropped > 0
    ran, steps = found.recorder.steps, found.steps
    assert 2 < len(steps) < len(ran) == 81 and steps == ran[: len(steps)]
    for step in steps:
        tasks = found.accountant.tasks(step.number)
        joined = found.accountant.of(step.number)
        assert np.count_nonzero(joined["what"] == Activity.STEP) == 1
        same = np.unique(tasks["group"], return_counts=True)
        whole = np.bincount(tasks["group"])[same[0]]
        assert (same[1] == whole).all() and tasks["index"].max() >= 1
    assert {account.steps[0].phase for account in found.accounts()} == {PREFILL, DECODE}
    for account in found.accounts():
        assert sum(core.total() for core in account.cores) == pytest.approx(account.ns * len(account.cores), rel=0.02)
    last = [np.count_nonzero(found.accountant.of(step.number)["what"] <= Activity.STOLEN) for step in steps[2:]]
    assert len(set(last)) == 1, "the decoded tokens of this model have the same tasks"
    assert found.accountant.spans["step"].max() == steps[-1].number


def test_full_rings_are_told_of(folder, command, small_rings, tmp_path):
    code, out, err = command(folder, "the end", "-n", 200, "--trace", tmp_path / "a", "--html", tmp_path / "a.html")
    assert code == 0, err
    (kept, ran), *rest = re.findall(r"this is of the first (\d+) of (\d+) steps", out)
    assert not rest and 0 < int(kept) < int(ran) == 200
    assert f"{int(kept) - 1} steps, {int(kept) - 1} rows" in out
    assert len(read((tmp_path / "a").read_bytes()).of("step")) == int(kept)
    assert '["records dropped",' in (tmp_path / "a.html").read_text()


def test_rings_that_do_not_hold_a_step_are_one_line(folder, command, monkeypatch):
    monkeypatch.setattr(recorder, "RING_BYTES", 1000)
    code, out, err = command(folder, "the end", "-n", 4)
    assert (code, out) == (2, "") and err.count("\n") == 1 and "do not fit" in err


def test_measuring_what_recording_costs_needs_no_more_memory_than_recording():
    """However many cores and tasks: the rings are emptied before they are full."""
    tasks, workers = 100_000, 128
    held = []

    class Trace:
        used = 0
        recording = True

        def __init__(self, capacity):
            held.append(capacity * recorder.RECORD_BYTES * (workers + 1))
            self.capacity = capacity

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def pause(self):
            self.recording = False

        def resume(self):
            self.recording = True

        def clear(self):
            assert not self.recording
            Trace.used = 0

    class Bencher:
        runtime = SimpleNamespace(executable=SimpleNamespace(trace=Trace), pool=SimpleNamespace(threads=workers))

        def fill(self, depth):
            pass

        def step(self, begin, end):
            Trace.used += tasks // workers
            return 0.001

    assert overhead.overhead(Bencher(), 3, tasks)[2] == overhead.MOST
    assert held and held[0] <= recorder.RING_BYTES


# Early ends -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3], ids=["prefill", "decode"])
def test_a_terminated_run_leaves_a_whole_trace(folder, command, tmp_path, monkeypatch, steps):
    note, cancel, before = Recorder._note, Driver.cancel, signal.getsignal(signal.SIGTERM)
    cancelled = threading.Event()

    def terminated(self, *what):
        note(self, *what)
        if len(self.steps) == steps:
            os.kill(os.getpid(), signal.SIGTERM)
            assert cancelled.wait(60)

    def cancelling(self, completions):
        cancel(self, completions)
        cancelled.set()

    monkeypatch.setattr(Recorder, "_note", terminated)
    monkeypatch.setattr(Driver, "cancel", cancelling)
    code, out, _ = command(folder, "the end", "-n", 50, "--trace", tmp_path / "a")
    assert code == 130 and "PREFILL: 1 step" in out
    ran = steps if steps == 1 else steps + 1  # the next one had followed
    assert len(read((tmp_path / "a").read_bytes()).of("step")) == ran
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_while_a_file_is_written_leaves_what_was_there(folder, command, monkeypatch, tmp_path):
    (tmp_path / "a").write_bytes(b"old")

    def interrupted(*_):
        yield b"new"
        raise KeyboardInterrupt

    monkeypatch.setattr(perfetto, "parts", interrupted)
    code, out, err = command(folder, "the end", "-n", 5, "--trace", tmp_path / "a")
    assert code == 130 and "DECODE: 4 steps" in out and "a: not written" in " ".join(err.split())
    assert (tmp_path / "a").read_bytes() == b"old" and list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_ctrl_c_while_recording_is_measured_keeps_the_report(folder, command, monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_module, "overhead", interrupted)
    code, out, _ = command(folder, "the end", "-n", 5, "--trace", tmp_path / "a")
    assert code == 130 and "DECODE: 4 steps" in out and "recording lengthens" not in out
    assert len(read((tmp_path / "a").read_bytes()).of("step")) == 5


def test_a_trace_is_written_step_by_step(runtime):
    """Some millions of tasks do not fit in memory as objects."""
    found = record(runtime, PROMPT, 5)
    parts = list(perfetto.parts(found.accountant, runtime.pool.placement.names, found.steps, "tiny"))
    assert len(parts) == len(found.steps) + 1
    assert b"".join(parts) == perfetto.serialize(found.accountant, runtime.pool.placement.names, found.steps, "tiny")


# Files ----------------------------------------------------------------------------------------------------------------


def test_a_full_disk_costs_one_file_and_not_the_report(folder, command, tmp_path):
    code, out, err = command(folder, "the end", "-n", 3, "--trace", "/dev/full", "--html", tmp_path / "a.html")
    assert code == 2 and "DECODE: 2 steps" in out
    assert "ellm: cannot write /dev/full: No space left on device\n" in err and "ui.perfetto.dev" not in err
    assert (tmp_path / "a.html").read_text().startswith("<!DOCTYPE html>")


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    file = tmp_path / "a"
    file.write_bytes(b"old")

    def parts():
        yield b"new"
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"cannot write .*a: No space left on device"):
        files.write_parts(file, parts())
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    files.write_whole(files.check_writable(str(tmp_path / "link")), b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path):
    """As root, replacing /dev/null would be a disaster."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.write_whole(files.check_writable(str(pipe)), b"new")
    assert os.read(reader, 10) == b"new" and stat.S_ISFIFO(pipe.stat().st_mode)
    os.close(reader)
    assert files.check_writable("/dev/null") == Path("/dev/null")


def test_the_longest_name_can_be_written(tmp_path):
    file = files.check_writable(str(tmp_path / ("x" * 255)))
    files.write_whole(file, b"new")
    assert file.read_bytes() == b"new"


@pytest.mark.parametrize(
    "name", ["x" * 256, "~nobody-of-that-name/x", "", "a-file/x"], ids=["long", "~", "empty", "file"]
)
def test_bad_names_of_files_are_one_line(command, tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").touch()
    code, out, err = command("no-such-model", "--trace", name)
    assert (code, out) == (2, "") and err.startswith("ellm: cannot write ") and err.count("\n") == 1


def test_a_file_that_may_not_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may do everything
    with pytest.raises(InputError, match="Permission denied"):
        files.check_writable(str(tmp_path / "a"))


def test_two_outputs_in_one_file_are_refused(command, tmp_path):
    (tmp_path / "link").symlink_to("a")
    code, out, err = command("no-such-model", "--trace", tmp_path / "a", "--html", tmp_path / "link")
    assert (code, out) == (2, "") and "--trace and --html both name" in err and err.count("\n") == 1


# The page -------------------------------------------------------------------------------------------------------------


def test_decoding_is_drawn_however_long_the_prompt(runtime, monkeypatch):
    found = record(runtime, np.resize(PROMPT, 640), 5)
    spans = [np.count_nonzero(found.accountant.of(step.number)["what"] < Activity.JOIN) for step in found.steps]
    monkeypatch.setattr(page, "MOST_SPANS", 3 * spans[0])
    data = page.data(found.accountant, found.accounts(), found.steps, runtime.pool.placement.names, "tiny", (1e9, 1e12))
    labels = [step["label"].split()[0] for step in data["steps"]]
    assert labels[0] == PREFILL and DECODE in labels and len(labels) < len(found.steps)
    assert data["steps"] == sorted(data["steps"], key=lambda step: step["begin"])


def test_the_page_has_the_limits_and_the_waits(runtime):
    found = record(runtime, PROMPT, 5)
    data = page.data(found.accountant, found.accounts(), found.steps, runtime.pool.placement.names, "tiny", (1e9, 1e12))
    for total, account in zip(data["totals"], found.accounts(), strict=True):
        kinds = {kind["name"]: kind for kind in total["kinds"]}
        assert re.fullmatch(r"\d+ % of (read|matmul)", kinds["layers.*.qkv"]["limit"])
        assert kinds["embed"]["limit"] == ""
        for core, times, waits in zip(total["cores"], account.cores, account.waits, strict=True):
            assert [name for name, _ in core["waits"]] == [name for name, _ in waits.most_common()]
            assert all(core[name] == times[name] / len(account.steps) for name in OUTSIDE)
