"""What `ellm plan` predicts for this machine beside what the engine does: the table of docs/plan.md.

python bench/predictions.py FOLDER [--rounds 15]

Checkpoints of random weights, 9 GB, are written to FOLDER unless they are there. Each of three models decodes after 128
and after 4096 tokens, and reads a prompt of 512. The machine's speed moves by factors within minutes, so measuring the
machine (as `ellm doctor --save` does) and running the model (as `ellm bench` does) take turns every tenth of a second,
or every step. Turns in which other processes used the cores are dropped. A round is PAIRS of turns: the prediction is
that for the machine of this round, the measurement the median of the round's steps. Printed are the medians over the
rounds, and the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from ellm.compiled import CHUNK
from ellm.llm import LLM
from ellm.machine.limits import WINDOW, Limits
from ellm.machine.measure import Meter
from ellm.predict.planner import Planner
from ellm.profiling.bencher import Bencher
from ellm.serving.runtime import Runtime

BENCH = Path(__file__).parent
MODELS = {  # name in the table -> name of the config and layers to keep
    "Qwen3-0.6B (28 layers)": ("qwen3-0.6b", 28),
    "Qwen3-30B-A3B, 2 layers": ("qwen3-30b-a3b", 2),
    "Llama-3.1-8B, 4 layers (128 K context)": ("llama-3.1-8b", 4),
}
PAIRS = 5
DEPTHS = (128, 4096)
PROMPT = 512
QUIET = 0.04  # most of the cores' time that other processes may use
SECONDS = 240  # to wait for quiet turns of one line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the checkpoints are or shall be")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    checkpoints = {name: checkpoint(arguments.folder, *model) for name, model in MODELS.items()}
    print("| model | step | predicted ms | measured ms | predicted / measured | middle half of the rounds |")
    print("|---|---|---|---|---|---|", flush=True)
    for name, path in checkpoints.items():
        llm = LLM(path, context=max(DEPTHS) + PROMPT, chunk=CHUNK)
        with llm, closing(Meter(llm.runtime.pool, llm.runtime.table)) as meter:
            for case in cases(llm.runtime):
                print(f"| {name} | {case.name} | {compare(case, llm.runtime, meter, arguments.rounds)} |", flush=True)
                name = ""


def checkpoint(folder: Path, config: str, layers: int) -> Path:
    """The checkpoint in the folder, made if it is not there."""
    path = folder / f"{config}-{layers}"
    if not (path / "tokenizer_config.json").exists():  # the last file to be written
        command = [BENCH / "make_checkpoint.py", BENCH / "configs" / config, path, "--layers", str(layers)]
        subprocess.run([sys.executable, *command], check=True, stdout=sys.stderr)
    return path


@dataclass
class Case:
    """A kind of step: seconds of some of them, and the milliseconds that a plan predicts for one."""

    name: str
    measure: Callable[[], list[float]]
    predict: Callable[[Planner], float]


def cases(runtime: Runtime) -> list[Case]:
    with closing(Limits(runtime.pool, runtime.table)) as limits:
        bencher = Bencher(runtime, limits)
    bencher.fill(max(DEPTHS))

    def decode(depth: int) -> list[float]:
        found: list[float] = []
        while sum(found) < WINDOW:
            found.append(bencher.step(depth + len(found), depth + len(found) + 1))
        return found

    def prompt() -> list[float]:
        return [sum(bencher.step(begin, begin + CHUNK) for begin in range(0, PROMPT, CHUNK))]

    return [
        *(
            Case(
                f"decode after {depth}",
                lambda depth=depth: decode(depth),
                lambda plan, depth=depth: plan.decode(depth).ms,
            )
            for depth in DEPTHS
        ),
        Case(f"prompt of {PROMPT}", prompt, lambda plan: plan.prefill(PROMPT).ms),
    ]


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


def compare(case: Case, runtime: Runtime, meter: Meter, rounds: int) -> str:
    """The last four columns of a line of the table."""
    case.measure()
    predicted, measured = [], []
    deadline = time.monotonic() + SECONDS
    for _ in range(rounds):
        samples, times = quiet_turns(case, meter, deadline)
        if len(samples) < PAIRS:
            break
        predicted.append(case.predict(Planner(runtime.program, replace(meter.machine(samples), python_us=0.0))))
        measured.append(1000 * statistics.median(times))
    if not predicted:
        return "- | - | - | never quiet"
    ratios = sorted(p / m for p, m in zip(predicted, measured, strict=True))
    middle = f"{ratios[len(ratios) // 4]:.2f} to {ratios[3 * len(ratios) // 4]:.2f}"
    return (
        f"{statistics.median(predicted):.2f} | {statistics.median(measured):.2f} | {statistics.median(ratios):.2f} | "
        f"{middle} of {len(ratios)}"
    )


def quiet_turns(case: Case, meter: Meter, deadline: float) -> tuple[list[dict[str, float]], list[float]]:
    """Samples of the machine and seconds of steps from PAIRS quiet turns, or from fewer if time is up."""
    samples: list[dict[str, float]] = []
    times: list[float] = []
    while len(samples) < PAIRS and time.monotonic() < deadline:
        others = Others()
        sample, seconds = meter.sample(), case.measure()
        if others.share() <= QUIET:
            samples.append(sample)
            times += seconds
    return samples, times


if __name__ == "__main__":
    main()
