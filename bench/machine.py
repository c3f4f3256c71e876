"""Measures this machine in a quarter of an hour: limits, kernels, models, contexts, scheduler and peers.

    python bench/machine.py [--seconds 1] [--append docs/speed.md]

Prints one Markdown section. Every figure is a median of windows that alternate with the machine's limit, on all cores;
a share is the median over these pairs. Models have random weights of the exact geometry, written to a temporary folder
(9 GB). Whatever cannot run here is a row that says why; `bench/peers.py --help` says how to get the peer.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import ellm
from ellm.kernels import isa
from ellm.scheduler import topology

HERE = Path(__file__).parent
ELLM = [sys.executable, "-m", "ellm.cli.main"]
MODELS = (("qwen3-0.6b", None), ("qwen3-30b-a3b", 6), ("gpt-oss-20b", 4))
"""Geometry of bench/configs, and how many layers a small machine holds of it."""
PROMPTS = "512,4096"
CHUNK = 512
PRODUCTS = ("--columns", "65536", "--k", "1024", "--rows", "1", "16", "64", "256")
"""Those of the kernels: with weights that no cache holds."""
FORMATS = ("bf16", "bf12", "f16", "fp8", "mxfp4", "q8_0", "q4_0", "q4_k", "q6_k")
LONGEST = 131072
"""Context, of two layers."""
PEER_TYPES = ("q4_k_m", "q8_0")
KERNEL = re.compile(r"^(\w+) +(\w+) +(\w+) +(\d+) +([\d.]+) +(\d+)% +([\d.]+) +(\d+)%$", re.MULTILINE)
LIMITS = re.compile(r"^  (\w+): .* limits now ([\d.]+) GB/s, ([\d.]+) TFLOP/s$", re.MULTILINE)
SCHEDULER = re.compile(r"│ (\S.*?) +│ +([\d.]+) │ +([\d.]*) +│ +([\d.]*) +│")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    figure: str
    share: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1, help="for each row of the kernels")
    parser.add_argument("--append", type=Path, metavar="FILE", help="also write the section at the end of FILE")
    arguments = parser.parse_args()
    lines = []
    for line in section(arguments.seconds):
        lines.append(line)
        print(line, flush=True)
    if arguments.append is not None:
        with arguments.append.open("a", encoding="utf-8") as file:
            file.write("\n" + "\n".join(lines) + "\n")


def section(seconds: float) -> Iterator[str]:
    """Its lines, each as soon as it is measured."""
    yield from (*heading(), "", "| | measured | share of the limit |", "|---|---|---|")
    for row in itertools.chain(kernels(seconds), models(), contexts(seconds), scheduler(), peers()):
        yield f"| {row.what} | {row.figure} | {row.share} |"


def heading() -> list[str]:
    """The CPU's name, and what else the figures depend on."""
    cpu = dict(re.findall(r"^(\S[^\t]*)\t*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    cores = topology.choose_cores(None)
    data = [cache for cache in topology.caches(cores[0]) if cache.kind != "Instruction"]
    caches = ", ".join(f"L{cache.level} {cache.size >> 10:,} KiB" for cache in data)
    compiler = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=False).stdout.splitlines()[0]
    usable = ", ".join(one for one, obstacle in isa.available().items() if obstacle is None)
    return [
        f"## {cpu.get('model name', platform.machine())} (model {cpu.get('model', 'unknown')})",
        "",
        f"{len(cores)} cores, {caches}; kernels for {usable}. Linux {platform.release()}, {compiler}, "
        f"Python {platform.python_version()}, ellm {ellm.__version__}, {date.today()}.",
    ]


def kernels(seconds: float) -> Iterator[Row]:
    """`linear` on each ISA that is meant to be fast, format and number of rows."""
    usable = [name for name, obstacle in isa.available().items() if obstacle is None]
    fast = [name for name in usable if name != "portable"] or usable
    each = [word for name in fast for word in ("--isa", name)] + [word for one in FORMATS for word in ("--format", one)]
    printed = run("kernels.py", "--seconds", str(seconds), *PRODUCTS, *each)
    for name, format, activations, rows, speed, of_read, rate, of_peak in KERNEL.findall(printed):
        figure = f"{speed} GB/s, {rate} TFLOP/s"
        product = format if activations == "bf16" else f"{format} by {activations}"
        yield Row(f"linear, {name}, {product}, {rows} rows", figure, f"read {of_read} %, multiplication {of_peak} %")
    limits: dict[str, list[tuple[float, float]]] = {}
    for name, read, peak in LIMITS.findall(printed):
        limits.setdefault(name, []).append((float(read), float(peak)))
    for name, found in limits.items():
        read, peak = (max(column) for column in zip(*found, strict=True))
        yield Row(f"limits, {name}, best of {len(found)}", f"{read} GB/s, {peak} TFLOP/s")


def models() -> Iterator[Row]:
    """Prefill and decode of each model that fits."""
    for name, layers in MODELS:
        title = name if layers is None else f"{name}, {layers} layers"
        with tempfile.TemporaryDirectory() as folder:
            cut = [] if layers is None else ["--layers", str(layers)]
            run("make_checkpoint.py", str(HERE / "configs" / name), folder, *cut)
            command = [*ELLM, "bench", folder, "-p", PROMPTS, "-n", "64"]
            command += ["--chunk", str(CHUNK), "--json"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            yield Row(title, done.stderr.strip().splitlines()[-1])
            continue
        for result in json.loads(done.stdout)["results"]:
            unit, scale = ("TFLOP/s", 1e12) if result["bytes_per_token"] is None else ("GB/s", 1e9)
            figure = f"{result['tokens_per_second']:.1f} tokens/s, {result['rate'] / scale:.2f} {unit}"
            limit = f"{result['share']:.0%} of {result['limit'] / scale:.2f} {unit}"
            yield Row(f"{title}: {result['name']}", figure, limit)


def contexts(seconds: float) -> Iterator[Row]:
    """A decoded token of two layers against the length of its context, by the precision of keys and values."""
    name, _ = MODELS[0]
    with tempfile.TemporaryDirectory() as folder:
        fields = f"max_position_embeddings={2 * LONGEST}"
        run("make_checkpoint.py", str(HERE / "configs" / name), folder, "--layers", "1", "--set", fields)
        for kv in ("bf16", "int8"):
            printed = run("context.py", folder, "--kv", kv, "--longest", str(LONGEST), "--seconds", str(seconds))
            for tokens, milliseconds, size, share in cells(printed):
                yield Row(f"{name}, 1 layer, {kv} cache: a token after {tokens}", f"{milliseconds} ms, {size}", share)
            yield Row(f"{name}, 1 layer, {kv} cache: straight line", printed.splitlines()[-1])


def peers() -> Iterator[Row]:
    """llama.cpp on the same files and cores."""
    name, _ = MODELS[0]
    if shutil.which("llama-batched-bench") is None:
        yield Row("beside llama.cpp", "not measured: llama-batched-bench is not on PATH")
        return
    with tempfile.TemporaryDirectory() as folder:
        for kind in PEER_TYPES:
            out = Path(folder) / f"{Path(name).name}-{kind}.gguf"
            run("make_gguf.py", str(HERE / "configs" / name), str(out), "--type", kind)
        for file, what, ours, theirs, ratio in cells(run("peers.py", folder, "--rounds", "1")):
            yield Row(f"{file}: {what}", f"{ours} tokens/s, llama.cpp {theirs}", f"{ratio} x")


def scheduler() -> Iterator[Row]:
    """Its own cost beside oneTBB's."""
    done = subprocess.run([sys.executable, str(HERE / "scheduler.py")], capture_output=True, text=True, check=False)
    if done.returncode:
        yield Row("scheduler", "not measured: " + (done.stderr.strip().splitlines() or ["it failed"])[-1])
    for what, ours, by_task, by_group in SCHEDULER.findall(done.stdout):
        beside = f"oneTBB {by_task} (a node a task), {by_group} (a node a group)" if by_task else ""
        yield Row(what, ours, beside)


def cells(printed: str) -> list[list[str]]:
    """The rows of a Markdown table that another script prints, without its head."""
    rows = [line.strip("|").split("|") for line in printed.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows[1:]]


def run(script: str, *words: str) -> str:
    """What a script of this folder prints."""
    command = [sys.executable, str(HERE / script), *words]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main()
