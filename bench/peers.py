"""ellm beside llama.cpp on the same GGUF files and cores: tokens/s of prefill, of decode and of a batch of 8.

python bench/peers.py FOLDER [--rounds 3] [--threads N]

FOLDER holds GGUF files (make_gguf.py writes some of random weights). `llama-batched-bench` must be on PATH: it is built
from the sources that llama-cpp-python comes with,

    pip download --no-deps --no-binary :all: llama-cpp-python && tar xf llama_cpp_python-*.tar.gz
    cmake -B build -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF llama_cpp_python-*/vendor/llama.cpp
    cmake --build build -j --target llama-batched-bench && export PATH=$PWD/build/bin:$PATH

(gcc 12 and older need -DCMAKE_CXX_FLAGS="-fno-dse -fno-tree-dse" on a CPU with AMX: their _tile_loadconfig tells the
compiler of 8 of its 64 bytes, the other stores are dropped, and the program dies.)

In each round the two take turns at each measurement, since a shared machine's speed moves; a speed is the median of its
rounds, the ratio that of ellm / llama.cpp within a round. Both run random tokens, in steps of 512 rows of a prompt.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import ellm
from ellm.kernels.contract import SAMPLING
from ellm.scheduler import StepInput
from ellm.system.memory import Mapping

PEER = "llama-batched-bench"
CHUNK = 512  # rows: llama.cpp's own default


@dataclass(frozen=True)
class Workload:
    """`sequences` prompts of so many tokens, then `new` tokens for each of them; which of the two is told, by name."""

    prompt: int
    new: int
    sequences: int
    prefill: str = ""
    decode: str = ""


WORKLOADS = (
    Workload(512, 1, 1, prefill="prefill 512"),
    Workload(4096, 32, 1, prefill="prefill 4096", decode="decode after 4096"),
    Workload(128, 48, 1, decode="decode after 128"),
    Workload(128, 24, 8, decode="batch of 8"),
)
Speeds = tuple[float, float]
"""Tokens a second of a workload's prompts and of its decode."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    files = sorted(arguments.folder.glob("*.gguf"))
    if not files:
        parser.error(f"{arguments.folder}: holds no *.gguf")
    if shutil.which(PEER) is None:
        parser.error(f"{PEER} is not on PATH; --help says how to get it")
    print("| file | | ellm | llama.cpp | ratio |\n|---|---|---|---|---|")
    for file in files:
        for row in compare(file, arguments.rounds, arguments.threads):
            print(row, flush=True)


def compare(file: Path, rounds: int, threads: int | None) -> list[str]:
    """The rows of a file."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    context = max(load.prompt + load.new for load in WORKLOADS)
    with ellm.LLM(str(file), threads=threads, context=context, chunk=CHUNK) as llm, Ours(llm) as ours:
        cores = len(llm.runtime.pool.cores)
        for _, load in itertools.product(range(rounds), WORKLOADS):
            mine, other = ours.run(load), peer(file, load, cores)
            for name, *speeds in zip((load.prefill, load.decode), mine, other, strict=True):
                if name:
                    pairs.setdefault(name, []).append((speeds[0], speeds[1]))
    rows = []
    for name, measured in pairs.items():
        ours_, theirs = (statistics.median(column) for column in zip(*measured, strict=True))
        ratio = statistics.median(mine / other for mine, other in measured)
        rows.append(f"| {file.stem} | {name} | {ours_:.1f} | {theirs:.1f} | {ratio:.2f} |")
    return rows


class Ours:
    """Steps of a loaded model, without its text and its engine, as llama-batched-bench has none."""

    def __init__(self, llm: ellm.LLM):
        self.executable, self.vocab = llm.runtime.executables[0], llm.runtime.program.vocab
        most = max(load.sequences for load in WORKLOADS)
        size = llm.runtime.compiled.range_bytes
        self.ranges = [Mapping(size, "the KV range of a sequence") for _ in range(most)]
        self.random = np.random.default_rng(0)

    def __enter__(self) -> Ours:
        return self

    def __exit__(self, *_: object) -> None:
        for range_ in self.ranges:
            range_.close()

    def run(self, load: Workload) -> Speeds:
        begin = time.perf_counter()
        for slot in range(load.sequences):
            for first in range(0, load.prompt, CHUNK):
                positions = np.arange(first, min(first + CHUNK, load.prompt))
                self.step(positions, np.full(len(positions), slot), last_only=True)
        between = time.perf_counter()
        slots = np.arange(load.sequences)
        for position in range(load.prompt, load.prompt + load.new):
            self.step(np.full(load.sequences, position), slots, last_only=False)
        end = time.perf_counter()
        return load.sequences * load.prompt / (between - begin), load.sequences * load.new / (end - between)

    def step(self, positions: np.ndarray, slots: np.ndarray, last_only: bool) -> None:
        """Rows of random tokens, of which the last or all choose a token."""
        wanted = np.arange(len(positions))[-1:] if last_only else np.arange(len(positions))
        inputs = StepInput.of(
            positions,
            self.random.integers(0, self.vocab, len(positions)),
            slots=slots,
            ranges=[range_.address for range_ in self.ranges],
            logit_row=wanted,
            vocab=self.vocab,
            sampling=np.zeros(len(wanted), SAMPLING),
        )
        self.executable.run(inputs)


def peer(file: Path, load: Workload, threads: int) -> Speeds:
    """llama.cpp's, on as many threads of the same cores."""
    command = [PEER, "-m", str(file), "-c", str(load.sequences * (load.prompt + load.new)), "-ub", str(CHUNK)]
    command += ["-npp", str(load.prompt), "-ntg", str(load.new), "-npl", str(load.sequences)]
    command += ["-t", str(threads), "-tb", str(threads), "--output-format", "jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        sys.exit(f"{PEER} failed on {file}: {(done.stderr.strip().splitlines() or ['it printed nothing'])[-1]}")
    found = json.loads(lines[-1])
    return found["speed_pp"], found["speed_tg"]


if __name__ == "__main__":
    main()
