"""What `ellm plan` predicts for this machine beside what the engine does: `python bench/plan.py MODEL ...`

For each model: decode after 128 and after 4096 tokens, and a prompt of 512. The machine's speed moves by factors within
minutes, so measuring the machine (as `ellm doctor --save` does) and running the model (as `ellm bench` does) take turns
every tenth of a second. Turns in which other processes used the cores are dropped. A round is PAIRS of turns: the
prediction is that for the machine of this round, the measurement the median of the round's steps. Printed are the
medians over the rounds, and the median of the rounds' ratios. `--uniform` leaves it to the plan how many rows of a
prompt each expert gets, otherwise that is what the model does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from contextlib import closing
from pathlib import Path

from ellm.cli.bench import CHUNK, Bencher
from ellm.limits import WINDOW, Limits
from ellm.measure import Meter
from ellm.planning import Planner
from ellm.profiling.recorder import Recorder
from ellm.runtime import Runtime

PAIRS = 5
DEPTHS = (128, 4096)
PROMPT = 512
QUIET = 0.04  # most of the cores' time that other processes may use
SECONDS = 240  # to wait for quiet turns of one line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="checkpoints, see bench/make_checkpoint.py")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--uniform", action="store_true", help="all experts alike")
    arguments = parser.parse_args()
    print("| model | step | predicted ms | measured ms | predicted / measured | middle half of the rounds |")
    print("|---|---|---|---|---|---|", flush=True)
    for model in arguments.models:
        runtime = Runtime(model, context=max(DEPTHS) + 512, chunk=CHUNK)
        with closing(runtime), closing(Meter(runtime.pool, runtime.table)) as meter:
            compare(Path(model).name, runtime, meter, arguments.rounds, arguments.uniform)


def compare(name: str, runtime: Runtime, meter: Meter, rounds: int, uniform: bool) -> None:
    with closing(Limits(runtime.pool, runtime.table)) as limits:
        bencher = Bencher(runtime, limits)
    for depth in DEPTHS:
        bencher.fill(depth)
        report(name, f"decode after {depth}", rounds, runtime, meter, Decode(bencher, depth))
    prompt = Prefill(bencher)
    if uniform:
        prompt.routed = None
    report(name, f"prompt of {PROMPT}", rounds, runtime, meter, prompt)


class Decode:
    """A token after so many. Each goes to its top k experts: which these are makes no difference."""

    routed = None

    def __init__(self, bencher: Bencher, depth: int):
        self.bencher, self.depth = bencher, depth

    def measure(self) -> list[float]:
        """Seconds of each step of a window."""
        found: list[float] = []
        while sum(found) < WINDOW:
            position = self.depth + len(found)
            found.append(self.bencher.step(position, position + 1))
        return found

    def predict(self, planner: Planner) -> float:
        return planner.decode(self.depth).ms


class Prefill:
    """A prompt. How many experts its rows hit is the model's affair, so the prediction takes them as they are."""

    def __init__(self, bencher: Bencher):
        self.bencher = bencher
        runtime = bencher.runtime
        executable, recorder = runtime.executable, Recorder(runtime.executable, PROMPT)
        with executable.trace():
            runtime.executable = recorder
            self.measure()
            runtime.executable = executable
        self.routed = [step.experts for step in recorder.steps]

    def measure(self) -> list[float]:
        chunk = self.bencher.chunk
        return [sum(self.bencher.step(begin, begin + chunk) for begin in range(0, PROMPT, chunk))]

    def predict(self, planner: Planner) -> float:
        return planner.prefill(PROMPT).ms


class Others:
    """The share of all cores' time that other processes, and other machines on the same host, have used since."""

    def __init__(self) -> None:
        self.begin = self._read()

    def share(self) -> float:
        everybody, own, total = (after - before for before, after in zip(self.begin, self._read(), strict=True))
        return (everybody - own) / max(total, 1e-3)

    @staticmethod
    def _read() -> tuple[float, float, float]:
        values = [int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        ticks, times = os.sysconf("SC_CLK_TCK"), os.times()
        idle = values[3] + values[4]
        return (sum(values) - idle) / ticks, times.user + times.system, sum(values) / ticks


def report(name: str, step: str, rounds: int, runtime: Runtime, meter: Meter, case: Decode | Prefill) -> None:
    case.measure()
    predicted, measured = [], []
    deadline = time.monotonic() + SECONDS
    for _ in range(rounds):
        samples: list[dict[str, float]] = []
        times: list[float] = []
        while len(samples) < PAIRS:
            others = Others()
            sample, seconds = meter.sample(), case.measure()
            if others.share() <= QUIET:
                samples.append(sample)
                times += seconds
            elif time.monotonic() > deadline:
                break
        if len(samples) < PAIRS:
            break
        planner = Planner(runtime.program, meter.machine(samples), routed=case.routed)
        predicted.append(case.predict(planner))
        measured.append(1000 * statistics.median(times))
    if not predicted:
        print(f"| {name} | {step} | - | - | - | never quiet |", flush=True)
        return
    ratios = sorted(p / m for p, m in zip(predicted, measured, strict=True))
    middle = f"{ratios[len(ratios) // 4]:.2f} to {ratios[3 * len(ratios) // 4]:.2f}"
    print(
        f"| {name} | {step} | {statistics.median(predicted):.2f} | {statistics.median(measured):.2f} "
        f"| {statistics.median(ratios):.2f} | {middle} of {len(ratios)} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
