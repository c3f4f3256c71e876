"""`ellm profile`: its report adds up, its trace is whole and true, and a bad path is one line."""

import copy
import json
import os
import re
import shutil
import signal
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import perfetto_trace
import pytest
from perfetto.trace_processor import TraceProcessor, TraceProcessorConfig
from perfetto_trace import read
from tiny import write_checkpoint
from until import until

from ellm.cli.profile import record
from ellm.inspection.operator_kinds import OperatorKind
from ellm.llm import LLM
from ellm.profiling import page, perfetto
from ellm.profiling.experts import routing
from ellm.profiling.perfetto import FIRST_CORE, RATE, READY
from ellm.profiling.recorder import DECODE, PREFILL, Recorder
from ellm.scheduler import StepTables
from ellm.scheduler.spans import Activity
from ellm.serving.driver import Driver

TOKENS = 6
PROMPT = np.arange(20, 120, dtype=np.int32)
ARCHITECTURES = ["Qwen3ForCausalLM", "Qwen3MoeForCausalLM"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request, tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / request.param, request.param)


@pytest.fixture(scope="module")
def runtime(folder):
    with LLM(folder, chunk=64) as llm:
        yield llm.runtime


@pytest.fixture(scope="module")
def inputs(runtime):
    """What the steps of the profile got."""
    return []


@pytest.fixture(scope="module")
def profile(runtime, inputs):
    note = Recorder._note

    def kept(self, given, *what):
        inputs.append(copy.deepcopy(given))
        note(self, given, *what)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "_note", kept)
        return record(runtime, PROMPT, TOKENS)


@pytest.fixture(scope="module")
def expected(runtime, profile, inputs):
    """(step, operator) -> tasks that it has, by the compiled program and the rows of the step."""
    program = runtime.program
    groups, tables = program.groups, StepTables(program, runtime.pool.threads)
    wakes = {int(groups["counts"][wake["first"]]): layer for layer, wake in enumerate(program.wakes)}
    found = Counter()
    for step, given in zip(profile.recorder.steps, inputs, strict=True):
        counts = tables.fill(given).counts
        for group in groups:
            if group["counts"] < 0:
                units = counts[group["kind"], group["block"]]
            else:
                units = -(-step.experts[wakes[int(group["counts"])]][group["block"]] // program.row_block)
            found[step.number, program.op_names[group["op"]]] += int(units * group["tiles"])
    return +found


@pytest.fixture(scope="module")
def content(runtime, profile):
    return perfetto.serialize(profile.accountant, runtime.pool.placement.names, profile.recorder.steps, "tiny")


@pytest.fixture(scope="module")
def trace(content):
    return read(content)


@pytest.fixture(scope="module")
def processor(runtime, content, tmp_path_factory):
    """Perfetto's own trace processor, a program that PyPI does not have, with the trace: it must be on PATH."""
    binary = shutil.which("trace_processor_shell")
    if binary is None:
        pytest.skip("there is no trace_processor_shell on PATH (get.perfetto.dev/trace_processor)")
    file = tmp_path_factory.mktemp("traces") / "tiny.pftrace"
    file.write_bytes(content)
    with TraceProcessor(trace=str(file), config=TraceProcessorConfig(bin_path=binary)) as processor:
        perfetto_trace.define(processor, runtime.program)
        yield processor


@pytest.fixture
def command(in_process):
    """`in_process` for `ellm profile`."""
    return partial(in_process, "profile")


def test_steps_are_those_of_the_engine(profile):
    steps = profile.recorder.steps
    assert [(step.phase, step.first, step.rows) for step in steps] == [
        (PREFILL, 0, 64),
        (PREFILL, 64, 36),
        *((DECODE, 100 + i, 1) for i in range(TOKENS - 1)),
    ]
    assert all(before.end_ns <= after.begin_ns for before, after in pairwise(steps))


def test_times_of_operators_sum_to_the_measured_steps(profile):
    for account in profile.accounts():
        assert account.accounted == pytest.approx(1, abs=0.02)
        for core in account.cores:
            assert core.total() == pytest.approx(account.ns, rel=0.02)
            assert all(ns >= 0 for ns in core.values())
        path = account.path
        on_path = sum(int(link.task["end_ns"] - link.task["start_ns"]) + link.gap_ns for link in path)
        assert 0 < on_path <= account.path_step.ns
        assert all(link.gap_ns >= 0 for link in path)
        before = [int(link.task["end_ns"]) for link in path[:-1]]
        assert all(end <= int(link.task["start_ns"]) for end, link in zip(before, path[1:], strict=True))


def test_calls_tasks_and_work_of_a_decoded_token(runtime, profile):
    _, decode = profile.accounts()
    totals = {kind.name: total for kind, total in decode.kinds.items()}
    assert totals["logits"].calls == totals["embed"].calls == TOKENS - 1
    assert totals["layers.*.qkv"].calls == 2 * (TOKENS - 1)
    operators = runtime.program.operators
    for kind, total in decode.kinds.items():
        same = [one for one in operators if OperatorKind.of(one) == kind]
        if kind.experts:
            share = kind.top_k / kind.experts
            assert total.bytes == pytest.approx((TOKENS - 1) * share * sum(one.weight_bytes for one in same))
        elif kind.kernel == "attend":
            assert total.bytes > 0 and total.flops == sum(
                (101 + i) * one.flops_per_key for i in range(TOKENS - 1) for one in same
            )
        else:
            assert total.bytes == (TOKENS - 1) * sum(one.weight_bytes for one in same)
            assert total.flops == (TOKENS - 1) * sum(one.flops for one in same)


def test_tasks_of_the_trace_are_those_that_ran(runtime, profile, trace, expected):
    kernels = trace.of("kernel")
    tasks = profile.accountant.spans
    tasks = tasks[tasks["what"] <= Activity.STOLEN]
    assert profile.accountant.dropped == 0
    names = runtime.program.op_names
    ran = sorted((int(one["step"]), names[one["op"]], int(one["block"]), int(one["index"])) for one in tasks)
    found = [(one.details["step"], one.name, one.details["block"], one.details["task"]) for one in kernels]
    assert sorted(found) == ran and len(set(found)) == len(found)
    assert Counter((step, name) for step, name, _, _ in found) == expected
    last = runtime.executable.statistics()["last"]["tasks"]
    assert sum(one.details["step"] == profile.recorder.steps[-1].number for one in kernels) == last


def test_nothing_overlaps_on_a_core(runtime, trace):
    for worker, core in enumerate(runtime.pool.cores):
        assert trace.tracks[FIRST_CORE + worker] == f"core {core}"
        own = sorted((one.begin, one.end) for one in trace.slices if one.track == FIRST_CORE + worker)
        assert all(before[1] <= after[0] for before, after in pairwise(own))


def test_tasks_come_after_the_operators_that_theirs_needs(runtime, trace):
    """By `after` of the compiler, which the scheduler does not see: in a row block, or of an expert, those have run."""
    operators = {one.name: one for one in runtime.program.operators}
    names = list(operators)
    spans = {}
    for one in trace.of("kernel"):
        key = (one.details["step"], one.name, one.details["block"])
        begin, end = spans.get(key, (one.begin, one.end))
        spans[key] = min(begin, one.begin), max(end, one.end)
    compared = 0
    for (step, name, block), (begin, _) in spans.items():
        if name in ("gather", "logits", "sample"):  # their blocks are of logit rows
            continue
        for before in (names[number] for number in operators[name].after):
            if bool(operators[name].experts) == bool(operators[before].experts):
                blocks = [block]
            else:  # from row blocks to experts, or back
                blocks = [other for number, one, other in spans if (number, one) == (step, before)]
            for other in blocks:
                end = spans.get((step, before, other), (0, 0))[1]
                assert end <= begin, f"step {step}: {name} {block} began before {before} {other} was done"
                compared += 1
    assert compared > 50


def test_arrows_follow_the_critical_path(trace):
    begins = {flow: one for one in trace.slices for flow in one.flows}
    ends = {flow: one for one in trace.slices for flow in one.terminating_flows}
    assert begins and begins.keys() == ends.keys()
    assert all(begins[flow].end <= ends[flow].begin for flow in begins)
    assert all(one.category == "kernel" for one in [*begins.values(), *ends.values()])


def test_counters(profile, trace):
    for _, value in trace.counters[READY]:
        assert value >= 0 and value == int(value)
    steps = profile.recorder.steps
    moments = [moment for moment, _ in trace.counters[RATE]]
    assert moments == sorted(moments) and moments[0] == steps[0].begin_ns
    assert {step.end_ns for step in steps} <= set(moments) and moments[-1] == steps[-1].end_ns
    read_bytes = sum(total.bytes for account in profile.accounts() for total in account.kinds.values())
    rates = trace.counters[RATE]
    assert min(rate for _, rate in rates) >= 0
    summed = sum(rate * (after[0] - at) for (at, rate), after in pairwise(rates))
    assert summed == pytest.approx(read_bytes, rel=0.01)


def test_experts_of_the_heat_map_are_those_routed_to(runtime, profile):
    found = routing(profile.recorder.steps)
    if not runtime.compiled.source.model.config.__dict__.get("num_experts"):
        assert found is None
        return
    config = runtime.compiled.source.model.config
    rows = sum(step.rows for step in profile.recorder.steps)
    assert found.rows.shape == (2, config.num_experts)
    assert (found.rows.sum(1) == rows * config.num_experts_per_tok).all()
    assert ((found.reuse >= 0) & (found.reuse <= 1)).all()
    spans = profile.accountant.spans
    for step in profile.recorder.steps:
        for layer in range(2):
            op = runtime.program.op_names.index(f"layers.{layer}.experts.gate_up")
            ran = spans[(spans["step"] == step.number) & (spans["op"] == op) & (spans["what"] <= Activity.STOLEN)]
            assert set(ran["block"].tolist()) == set(np.flatnonzero(step.experts[layer]).tolist())


def test_data_of_the_page(runtime, profile):
    steps, limits = profile.recorder.steps, (1e9, 1e12)
    data = page.data(profile.accountant, profile.accounts(), steps, runtime.pool.placement.names, "tiny", limits)
    json.dumps(data, allow_nan=False)
    assert len({len(column) for column in data["spans"]}) == 1
    assert len(data["steps"]) == len(profile.recorder.steps)
    assert bool(data["experts"]) == bool(len(runtime.program.wakes))


def test_perfetto_itself_reads_the_trace(runtime, profile, processor):
    (errors,) = processor.query("select count(*) as n from stats where severity <> 'info' and value <> 0")
    assert errors.n == 0
    threads = processor.query("select thread.name from thread join process using (upid) where pid = 1 order by tid")
    assert [one.name for one in threads] == ["steps", *(f"core {core}" for core in runtime.pool.cores)]
    spans = profile.accountant.spans
    ran = Counter(f"core {core}" for core in spans["core"][spans["what"] <= Activity.STOLEN])
    assert {one.core: one.n for one in processor.query("select core, count(*) as n from task group by core")} == ran


def test_perfetto_counts_the_tasks_that_the_program_has(expected, processor):
    found = processor.query("select step, op, count(*) as tasks from task group by step, op")
    assert {(one.step, one.op): one.tasks for one in found} == expected


def test_perfetto_finds_no_overlap_and_no_early_task(processor):
    (overlapping,) = processor.query(perfetto_trace.OVERLAPPING)
    assert overlapping.n == 0
    (early,) = processor.query(perfetto_trace.EARLY)
    assert early.compared > 100 and early.n == 0


def test_perfetto_follows_the_critical_path(profile, processor):
    paths = list(processor.query(perfetto_trace.PATHS))
    assert [path.step for path in paths] == [step.number for step in profile.recorder.steps]
    assert all(path.begins == path.ends == path.last == 1 and path.tasks == path.apart > 1 for path in paths)
    (arrows,) = processor.query("select count(*) as n from flow")
    assert arrows.n == sum(path.tasks - 1 for path in paths)
    (wrong,) = processor.query(perfetto_trace.NOT_CRITICAL)
    assert wrong.n == 0


def test_perfetto_has_the_counters(profile, processor):
    ready = list(processor.query(perfetto_trace.COUNTER.format(name="ready tasks")))
    assert all(one.value >= 0 and one.value == int(one.value) for one in ready)
    for step in profile.recorder.steps:
        within = [one.value for one in ready if step.begin_ns <= one.ts <= step.end_ns]
        assert max(within) > 0 and within[-1] == 0
    rates = list(processor.query(perfetto_trace.COUNTER.format(name="weights, keys and values GB/s")))
    read_bytes = sum(total.bytes for account in profile.accounts() for total in account.kinds.values())
    assert sum(one.value * (one.dur or 0) for one in rates) == pytest.approx(read_bytes, rel=0.01)
    assert {one.unit for one in rates} == {"GB/s"} and min(one.value for one in rates) >= 0


def test_report_and_files(folder, runtime, command, tmp_path):
    prompt = len(runtime.checkpoint.tokenizer.encode("the end"))
    code, out, err = command(
        folder, "the end", "-n", "5", "--trace", tmp_path / "a.pftrace", "--html", tmp_path / "a.html"
    )
    assert code == 0 and len(err.splitlines()) == 2
    assert re.search(r"recording lengthens a decode step by [+-][\d.]+% ± [\d.]+%", out)
    assert f"PREFILL: 1 step, {prompt} rows" in out and "DECODE: 4 steps, 4 rows" in out
    assert len(re.findall(r"OUTSIDE OF KERNELS: \d+ µs a step", out)) == 2
    assert ("EXPERTS: 2 layers of 7" in out) == ("Moe" in folder.name)
    for sums in re.findall(r"^sum .* ([\d.]+)%$", out, re.MULTILINE):
        assert float(sums) == pytest.approx(100, abs=2)
    assert len(read((tmp_path / "a.pftrace").read_bytes()).of("step")) == 5
    assert (tmp_path / "a.html").read_text().startswith("<!DOCTYPE html>")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.html", "a.pftrace"]


def test_an_interrupted_run_leaves_a_whole_trace(folder, command, tmp_path, monkeypatch):
    note, cancel, pressed = Recorder._note, Driver.cancel, []

    def cancelled(self, completions):
        cancel(self, completions)
        pressed.append(True)

    def interrupted(self, *what):
        note(self, *what)
        if len(self.steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
            until(lambda: pressed)

    monkeypatch.setattr(Recorder, "_note", interrupted)
    monkeypatch.setattr(Driver, "cancel", cancelled)
    code, out, _ = command(folder, "the end", "-n", "50", "--trace", tmp_path / "a.pftrace")
    assert code == 130 and "DECODE: 3 steps" in out  # the last of which had followed
    trace = read((tmp_path / "a.pftrace").read_bytes())
    assert len(trace.of("step")) == 4
    assert {one.details["step"] for one in trace.of("kernel")} == {1, 2, 3, 4}


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    from ellm.system.files import write_whole

    file = tmp_path / "a"
    file.write_bytes(b"old")

    def broken(self, content):
        self.open("wb").write(content[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", broken)
    with pytest.raises(KeyboardInterrupt):
        write_whole(file, b"new")
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("option", ["--trace", "--html"])
@pytest.mark.parametrize("path", ["absent/file", ""], ids=["no such folder", "a folder"])
def test_a_path_that_cannot_be_written_is_refused_before_anything_is_loaded(tmp_path, command, option, path):
    code, out, err = command("no-such-model", option, tmp_path / path)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"ellm: cannot write \S+: [^\n]+\n", err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["-n", "0"], "-n must be at least 1, not 0"), ([" "], "PROMPT is empty"), (["x" * 2000], "the context has 1024")],
)
def test_bad_input_is_one_line(tmp_path, command, arguments, message):
    folder = write_checkpoint(tmp_path / "tiny")
    code, out, err = command(folder, *arguments)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
