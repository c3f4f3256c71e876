"""`ellm profile`: where the time of a prompt and of its answer goes, operator by operator and core by core."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ellm import pages
from ellm.cli.bench import Bencher
from ellm.cli.overhead import overhead
from ellm.cli.skipped import note_skipped
from ellm.cli.steps import Step as StepTasks
from ellm.cli.terminal import interruptible, loading, note
from ellm.engine import Engine
from ellm.kernels.errors import InputError
from ellm.limits import Limits
from ellm.profiling import page, perfetto, report
from ellm.profiling.account import Account, Accountant
from ellm.profiling.experts import routing
from ellm.profiling.files import check_writable, write_whole
from ellm.profiling.recorder import DECODE, PREFILL, Recorder
from ellm.request import Request
from ellm.runtime import Runtime
from ellm.sampling import SamplingParams

PROMPT = (
    "A language model reads a prompt in large steps, many tokens at once, and then writes its answer one token at a "
    "time. The first is bound by how fast the cores multiply, the second by how fast they read the weights from "
    "memory. Explain why, and what a machine would need to do both faster."
)
SCRIPTS = ("vendor/d3.min.js", "common.js", "timeline.js", "totals.js", "experts.js", "profile.js")
SAMPLES = 4  # of each limit, before and after the run; the best counts
RING_BYTES = 1 << 28  # of all cores
RECORD_BYTES = 32


@dataclass
class Profile:
    """A recorded run."""

    recorder: Recorder
    accountant: Accountant
    interrupted: bool

    def accounts(self) -> list[Account]:
        """Prefill and decode, as far as there are any."""
        steps = self.recorder.steps
        phases = ([step for step in steps if step.phase == phase] for phase in (PREFILL, DECODE))
        return [self.accountant.account(phase) for phase in phases if phase]


def profile(
    model: str, prompt: str | None, tokens: int, *, trace: str | None, html: str | None, options: dict[str, Any]
) -> None:
    """Run, print the report and write the files. Raises KeyboardInterrupt after that if Ctrl-C ended the run."""
    if tokens < 1:
        raise InputError(f"-n must be at least 1, not {tokens}")
    if prompt is not None and not prompt.strip():
        raise InputError("PROMPT is empty")
    files = {name: check_writable(path) for name, path in (("trace", trace), ("html", html)) if path}
    with loading(model) as progress:
        opened = Runtime(model, progress=progress, **options)
    with closing(opened) as runtime:
        note_skipped(runtime)
        ids = np.array(runtime.checkpoint.tokenizer.encode(PROMPT if prompt is None else prompt), np.int32)
        if not 1 <= len(ids) < runtime.context:
            raise InputError(f"the prompt has {len(ids)} tokens, the context has {runtime.context}")
        with closing(Limits(runtime.pool, runtime.table)) as limits:
            samples = sample(limits)
            found = record(runtime, ids, tokens)
            accounts = found.accounts()
            if not accounts:
                raise KeyboardInterrupt
            write_files(found, accounts, runtime, model, files)
            print(f"{model}: {runtime.choice.isa} ({runtime.choice.reason}), {runtime.pool.threads} threads")
            if not found.interrupted:
                samples += sample(limits)
                print(overhead_line(runtime, limits, len(ids)))
            print_report(found, accounts, runtime.pool.cores, *map(max, zip(*samples, strict=True)))
    if found.interrupted:
        raise KeyboardInterrupt


def record(runtime: Runtime, prompt: np.ndarray, tokens: int) -> Profile:
    """Run a prompt and its answer of so many tokens, until Ctrl-C at most."""
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    tokenizer = runtime.checkpoint.tokenizer
    request = Request(prompt, params, runtime.context, tokenizer.stream(), tokenizer.eos_ids)
    recorder = Recorder(runtime.executable, len(prompt))
    with (
        closing(Engine(recorder, runtime.program, chunk=runtime.chunk)) as engine,
        runtime.executable.trace(capacity(runtime, len(prompt), tokens)) as trace,
        interruptible(lambda: engine.cancel([request])) as pressed,
    ):
        engine.submit([request])
        engine.wait(lambda: request.done)
        if request.error is not None:
            raise request.error
    accountant = Accountant(runtime.program, trace.events(), runtime.pool.cores, trace.dropped)
    return Profile(recorder, accountant, bool(pressed))


def capacity(runtime: Runtime, prompt: int, tokens: int) -> int:
    """Records to make room for on each core: all tasks, as any core may run them, and as many intervals."""
    program, workers = runtime.program, runtime.pool.threads
    whole, rest = divmod(prompt, runtime.chunk)
    rows = [runtime.chunk] * whole + [rest] * bool(rest)
    sizes = {count: int(StepTasks(program, count, workers).tasks.sum()) for count in {1, *rows}}
    wanted = 2 * (sum(sizes[count] for count in rows) + tokens * sizes[1]) + 4096
    return min(wanted, RING_BYTES // (RECORD_BYTES * (workers + 1)))


def write_files(found: Profile, accounts: list[Account], runtime: Runtime, model: str, files: dict[str, Path]) -> None:
    """The trace and the page, of the steps that have ended."""
    steps, cores = found.recorder.steps, runtime.pool.cores
    if "trace" in files:
        write_whole(files["trace"], perfetto.serialize(found.accountant, cores, steps, model))
        note(f"{files['trace']}: open it at ui.perfetto.dev")
    if "html" in files:
        data = page.data(found.accountant, accounts, steps, cores, model)
        text = pages.page(f"{model}: ellm profile", "profile.html", data, SCRIPTS)
        write_whole(files["html"], text.encode(errors="replace"))
        note(f"{files['html']}: open it in a browser")


def sample(limits: Limits) -> list[tuple[float, float]]:
    """What this machine reads and multiplies right now, several times: bytes and operations a second."""
    return [(limits.read(), limits.matmul()) for _ in range(SAMPLES)]


def overhead_line(runtime: Runtime, limits: Limits, depth: int) -> str:
    """Measure what recording costs at this depth."""
    tasks = int(StepTasks(runtime.program, 1, runtime.pool.threads).tasks.sum())
    cost, error, pairs = overhead(Bencher(runtime, limits), min(depth, runtime.context - 1), tasks)
    return (
        f"recording lengthens a decode step by {cost:+.2%} ± {error:.2%} "
        f"(lower quartiles of {pairs} steps with and without, in turn)"
    )


def print_report(found: Profile, accounts: list[Account], cores: list[int], read: float, matmul: float) -> None:
    """Prefill, decode and the experts, beside the limits in bytes and operations a second."""
    for account in accounts:
        print()
        print("\n".join(report.lines(account, found.accountant, cores, read, matmul)))
    routed = routing(found.recorder.steps)
    if routed:
        print()
        print("\n".join(report.expert_lines(routed)))
