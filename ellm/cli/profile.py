"""`ellm profile`: where the time of a prompt and of its answer goes, operator by operator and core by core."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ellm import pages
from ellm.cli.skipped import note_skipped
from ellm.cli.terminal import interruptible, loading, note, terminable
from ellm.inspection.steps import Step as StepTasks
from ellm.llm import LLM
from ellm.machine.limits import Limits
from ellm.profiling import page, perfetto, report
from ellm.profiling.account import Account, Accountant
from ellm.profiling.bencher import Bencher
from ellm.profiling.experts import routing
from ellm.profiling.overhead import overhead
from ellm.profiling.recorder import DECODE, PREFILL, RING_BYTES, Recorder, Step, room
from ellm.serving.completion import Completion
from ellm.serving.driver import Driver
from ellm.serving.engine import Engine
from ellm.serving.runtime import Runtime
from ellm.serving.sampling import SamplingParams
from ellm.system.errors import InputError
from ellm.system.files import check_writable, write_parts, write_whole

PROMPT = (
    "A language model reads a prompt in large steps, many tokens at once, and then writes its answer one token at a "
    "time. The first is bound by how fast the cores multiply, the second by how fast they read the weights from "
    "memory. Explain why, and what a machine would need to do both faster."
)
SCRIPTS = ("vendor/d3.min.js", "common.js", "timeline.js", "totals.js", "experts.js", "profile.js")
SAMPLES = 4  # of each limit, before and after the run; the best counts
T = TypeVar("T")


@dataclass
class Profile:
    """A recorded run."""

    recorder: Recorder
    steps: list[Step]  # those of the recorder of which there are all records
    accountant: Accountant
    interrupted: bool

    def accounts(self) -> list[Account]:
        """Prefill and decode, as far as there are any."""
        phases = ([step for step in self.steps if step.phase == phase] for phase in (PREFILL, DECODE))
        return [self.accountant.account(phase) for phase in phases if phase]

    def attempt(self, work: Callable[[], list[T]]) -> list[T]:
        """What `work` returns; nothing if it is interrupted."""
        try:
            return work()
        except KeyboardInterrupt:
            self.interrupted = True
            return []

    def unless_interrupted(self, work: Callable[[], list[T]]) -> list[T]:
        """The same, and nothing if the run was interrupted already."""
        return [] if self.interrupted else self.attempt(work)


def profile(
    model: str, prompt: str | None, tokens: int, *, trace: str | None, html: str | None, options: dict[str, Any]
) -> None:
    """Run, write the files and print the report. Raises KeyboardInterrupt after that if the run was interrupted."""
    if tokens < 1:
        raise InputError(f"-n must be at least 1, not {tokens}")
    if prompt is not None and not prompt.strip():
        raise InputError("PROMPT is empty")
    files = {name: check_writable(path) for name, path in (("trace", trace), ("html", html)) if path is not None}
    if len({file.resolve() for file in files.values()}) < len(files):
        raise InputError(f"--trace and --html both name {files['trace']}")
    with terminable(), loading(model) as progress:
        opened = LLM(model, needs_text=True, progress=progress, **options)
    with terminable(), opened as llm:
        runtime = llm.runtime
        note_skipped(runtime)
        ids = np.array(llm.tokenizer.encode(PROMPT if prompt is None else prompt), np.int32)
        if not 1 <= len(ids) < runtime.context:
            raise InputError(f"the prompt has {len(ids)} tokens, the context has {runtime.context}")
        with closing(Limits(runtime.pool, runtime.table)) as limits:
            show(runtime, limits, ids, tokens, model, files)


def show(runtime: Runtime, limits: Limits, prompt: np.ndarray, tokens: int, model: str, files: dict[str, Path]) -> None:
    """Record, write the files, print the report, and only then raise what went wrong with a file, or the interrupt."""
    samples = sample(limits)
    found = record(runtime, prompt, tokens)
    accounts = found.accounts()
    if not accounts:
        raise KeyboardInterrupt
    samples += found.unless_interrupted(lambda: sample(limits))
    read, matmul = map(max, zip(*samples, strict=True))
    failures = found.attempt(lambda: write_files(found, accounts, runtime, model, files, (read, matmul)))
    cost = found.unless_interrupted(lambda: overhead_lines(runtime, limits, len(prompt)))
    heading = [f"{model}: {runtime}", *cost, *dropped_lines(found)]
    print("\n".join([*heading, *report_lines(found, accounts, runtime.pool.placement.names, read, matmul)]))
    if failures:
        raise failures[0]
    if found.interrupted:
        raise KeyboardInterrupt


def record(runtime: Runtime, prompt: np.ndarray, tokens: int) -> Profile:
    """Run a prompt and its answer of so many tokens, until an interrupt at most.

    Raises InputError if not even one step fits the rings.
    """
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    completion = Completion(prompt, params, runtime.context, runtime.checkpoint.tokenizer)
    recorder = Recorder(runtime.executable, len(prompt))
    with (
        closing(Driver(Engine([recorder], chunk=runtime.chunk, nodes=runtime.nodes))) as driver,
        runtime.executable.trace(capacity(runtime, len(prompt), tokens)) as trace,
        interruptible(lambda: driver.cancel([completion])) as pressed,
    ):
        driver.run([completion])
        if completion.sequence.error is not None:
            raise completion.sequence.error
    spans, steps, end = trace.spans(), recorder.steps, trace.whole_before
    if end is not None:
        spans, steps = spans[spans["step"] < end], [step for step in steps if step.number < end]
    if recorder.steps and not steps:
        raise InputError(f"the records of one step do not fit in the {RING_BYTES >> 20} MB that there are for them")
    accountant = Accountant(runtime.program, spans, runtime.pool.cores, trace.dropped)
    return Profile(recorder, steps, accountant, bool(pressed))


def capacity(runtime: Runtime, prompt: int, tokens: int) -> int:
    """Records to make room for on each core: all tasks, as any core may run them, and as many intervals."""
    program, workers = runtime.program, runtime.pool.threads
    whole, rest = divmod(prompt, runtime.chunk)
    rows = [runtime.chunk] * whole + [rest] * bool(rest)
    sizes = {count: int(StepTasks(program, count, workers).tasks.sum()) for count in {1, *rows}}
    wanted = 2 * (sum(sizes[count] for count in rows) + tokens * sizes[1]) + 4096
    return room(wanted, workers)


def write_files(
    found: Profile,
    accounts: list[Account],
    runtime: Runtime,
    model: str,
    files: dict[str, Path],
    limits: tuple[float, float],
) -> list[InputError]:
    """The trace and the page, of the steps that have ended; returns why one could not be written."""

    def write_trace(path: Path) -> None:
        write_parts(path, perfetto.parts(found.accountant, runtime.pool.placement.names, found.steps, model))
        note(f"{path}: open it at ui.perfetto.dev")

    def write_page(path: Path) -> None:
        data = page.data(found.accountant, accounts, found.steps, runtime.pool.placement.names, model, limits)
        text = pages.page(f"{model}: ellm profile", "profile.html", data, SCRIPTS)
        write_whole(path, text.encode(errors="replace"))
        note(f"{path}: open it in a browser")

    failures = []
    for name, write in (("trace", write_trace), ("html", write_page)):
        try:
            if name in files:
                write(files[name])
        except InputError as error:
            failures.append(error)
        except KeyboardInterrupt:
            note(f"{files[name]}: not written, as that was interrupted")
            raise
    return failures


def sample(limits: Limits) -> list[tuple[float, float]]:
    """What this machine reads and multiplies right now, several times: bytes and operations a second."""
    return [(limits.read(), limits.matmul()) for _ in range(SAMPLES)]


def overhead_lines(runtime: Runtime, limits: Limits, depth: int) -> list[str]:
    """Measure what recording costs at this depth."""
    tasks = int(StepTasks(runtime.program, 1, runtime.pool.threads).tasks.sum())
    cost, error, pairs = overhead(Bencher(runtime, limits), min(depth, runtime.context - 1), tasks)
    return [
        f"recording lengthens a decode step by {cost:+.2%} ± {error:.2%} "
        f"(lower quartiles of {pairs} steps with and without, in turn)"
    ]


def dropped_lines(found: Profile) -> list[str]:
    """Which steps this is not of."""
    if not found.accountant.dropped:
        return []
    kept, ran = len(found.steps), len(found.recorder.steps)
    return [
        f"this is of the first {kept} of {ran} steps: then the {RING_BYTES >> 20} MB for records were full, "
        f"and {found.accountant.dropped} of them were dropped"
    ]


def report_lines(
    found: Profile, accounts: list[Account], names: list[str], read: float, matmul: float
) -> Iterator[str]:
    """Prefill, decode and the experts, beside the limits in bytes and operations a second."""
    for account in accounts:
        yield ""
        yield from report.lines(account, found.accountant, names, read, matmul)
    routed = routing(found.steps)
    if routed:
        yield ""
        yield from report.expert_lines(routed)
