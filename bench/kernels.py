"""Prints how fast `linear` runs on each ISA, format of weights and row count, beside the limits that probes measure.

    python bench/kernels.py [--isa avx512] [--format q4_k] [--activations int16] [--columns 65536] [--k 1024]
                            [--seconds 1]

Activations (x) are those of the format's route, unless asked for. GB/s counts the bytes of a weight as it is stored;
`--k` is for bf16, and multiplied for formats with fewer bytes, down to whole blocks.

Limits and measured work alternate in short windows, since a machine's speed moves within seconds; each ratio is the
median over pairs of neighbouring windows. Every thread is pinned to a core of its own and has its share of the tasks.
"""

import argparse
import importlib
import itertools
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ellm.kernels import contract, isa
from ellm.kernels.contract import TILE
from ellm.kernels.formats import FORMATS
from ellm.kernels.records import RECORDS
from ellm.kernels.routes import ACTIVATIONS, choose
from ellm.kernels.spill import Spill

ROW_BLOCK = 256
TASK_TILES = 8
READ_TASK = 256 * 1024


def aligned(size: int, alignment: int = 4096) -> np.ndarray:
    raw = np.zeros(size + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + size]


def ordinary_column(format: str, k_tiles: int) -> np.ndarray:
    """The bytes of a column tile of finite random weights."""
    random = np.random.default_rng(0)
    size = FORMATS[format].column_bytes(k_tiles)
    found = FORMATS[format]
    if format == "f16":
        return random.standard_normal(size // 2).astype(np.float16).view(np.uint8)
    if format == "bf16" or found.packs == "bf16":
        elements = TILE * (size // found.block_bytes * found.block_tiles if found.packs else k_tiles)
        bits = random.integers(0, 2**16, elements, np.uint16) & 0x83FF | 0x3C00
        if not found.packs:
            return bits.view(np.uint8)
        packed = np.zeros(size, np.uint8)
        Spill(0, 0).pack(bits, packed.ctypes.data, format)
        return packed
    blocks = random.integers(0, 256, (size // found.block_bytes, found.block_bytes), np.uint8)
    blocks[blocks & 0x7F == 0x7F] = 0  # E4M3's NaN
    for part in found.parts.values():
        ordinary = 0.01 if part.dtype.kind == "f" else 120 if part.dtype.kind == "u" else 20
        numbers = np.full(part.groups * 16, ordinary, part.dtype)
        blocks[:, part.offset : part.offset + part.bytes] = numbers.view(np.uint8)
    return blocks.reshape(-1)


def depth(format: str, k: int) -> int:
    """Of a weight of about as many bytes as one in bf16 of this k, in whole blocks."""
    block = FORMATS[format].k_per_block if FORMATS[format].header_bytes else 1
    return max(k * 16 // FORMATS[format].bits // block, 1) * block


class Bench:
    """Threads, memory and timed runs of one ISA's kernels."""

    def __init__(self, name: str, format: str, activations: str, k: int, columns: int):
        self.name, self.activations = name, ACTIVATIONS[activations]
        self.module = importlib.import_module(f"ellm.kernels._{name}")
        self.cores = sorted(os.sched_getaffinity(0))
        self.threads = [ThreadPoolExecutor(1) for _ in self.cores]
        for thread, core in zip(self.threads, self.cores, strict=True):
            thread.submit(os.sched_setaffinity, 0, {core}).result()
        self.k, self.columns, self.format = k, columns, FORMATS[format].number
        self.k_tiles, self.n_tiles = -(-k // 32), -(-columns // 16)
        self.weights = aligned(self.n_tiles * FORMATS[format].column_bytes(self.k_tiles))
        self.weights.reshape(self.n_tiles, -1)[:] = ordinary_column(format, self.k_tiles)
        self.step = np.zeros(1, contract.STEP)
        self.arena = aligned(ROW_BLOCK * 4 * (k + columns))
        self.arena[: ROW_BLOCK * k * 4].view(np.float32)[:] = np.random.default_rng(1).standard_normal(ROW_BLOCK * k)

    def seconds(self, kernel: str, rows: int, **fields: float) -> float:
        """Wall time of all tasks of one operator, shared between the threads."""
        args = contract.pack(kernel, **fields)
        tasks = RECORDS[kernel].tasks(fields)
        self.step["number"] += 1
        scratch = [aligned(RECORDS[kernel].scratch_bytes(fields, ROW_BLOCK)) for _ in self.threads]

        def share(worker: int) -> None:
            first, last = (tasks * n // len(self.threads) for n in (worker, worker + 1))
            self.module.run(
                kernel, args.ctypes.data, self.step.ctypes.data, self.arena.ctypes.data, scratch[worker].ctypes.data,
                section_bytes=self.arena.size, row_block=ROW_BLOCK, block=0, rows=rows, index=first, count=last - first,
            )  # fmt: skip

        begin = time.perf_counter()
        for future in [thread.submit(share, worker) for worker, thread in enumerate(self.threads)]:
            future.result()
        return time.perf_counter() - begin

    def linear(self, rows: int) -> float:
        return self.seconds(
            "linear", rows, x=0, x_bf16=0, x_stride=self.k, norm=0, eps=0, k=self.k, k_tiles=self.k_tiles,
            weight=self.weights.ctypes.data, n_tiles=self.n_tiles, bias=0, task_tiles=TASK_TILES, format=self.format,
            activations=self.activations,
            n=self.columns, out=ROW_BLOCK * self.k * 4, out_bf16=0, out_stride=self.columns, residual=-1,
        )  # fmt: skip

    def read(self, loop: dict[str, int]) -> float:
        """Bytes a second of one read loop."""
        count = self.weights.size // READ_TASK
        taken = self.seconds("probe_read", 1, memory=self.weights.ctypes.data, bytes=READ_TASK, tasks=count, **loop)
        return count * READ_TASK / taken

    def peak(self) -> float:
        """Floating-point operations a second of all cores."""
        fields = {"tasks": len(self.threads), "repeats": 20000}
        return RECORDS["probe_matmul"].work(fields).flops / self.seconds("probe_matmul", 1, **fields)

    def best_loop(self) -> dict[str, int]:
        """The fastest of the read loops that this ISA has."""
        loops = [loop for loop in contract.READ_LOOPS if self.name == "amx" or not loop["tiles"]]
        return max(loops, key=lambda loop: max(self.read(loop) for _ in range(5)))


def measure(bench: Bench, rows: int, loop: dict[str, int], seconds: float) -> tuple[float, float, float, float]:
    """Medians of GB/s and TFLOP/s of linear and of their ratios to the probes."""
    pairs = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(pairs) < 5:
        read, peak, taken = bench.read(loop), bench.peak(), bench.linear(rows)
        speed, rate = bench.weights.size / taken, 2 * rows * bench.k * bench.columns / taken
        pairs.append((speed / 1e9, rate / 1e12, speed / read, rate / peak))
    return tuple(statistics.median(column) for column in zip(*pairs, strict=True))  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", action="append", choices=isa.ISAS)
    parser.add_argument("--format", action="append", choices=FORMATS)
    parser.add_argument("--activations", action="append", choices=ACTIVATIONS)
    parser.add_argument("--columns", type=int, default=65536)
    parser.add_argument("--k", type=int, default=1024)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--seconds", type=float, default=1, help="for each row of the table")
    options = parser.parse_args()
    print("isa      format  x      rows    GB/s  of reading  TFLOP/s  of the peak")
    obstacles = isa.available()  # asks for the permission to use AMX, too
    names = options.isa or [name for name, obstacle in obstacles.items() if obstacle is None]
    for name in names:
        if obstacles[name] is not None:
            parser.error(f"--isa {name}: {obstacles[name]}")
    for name, format, asked in itertools.product(names, options.format or FORMATS, options.activations or [None]):
        activations = choose(FORMATS[format], name, asked).activations
        bench = Bench(name, format, activations, depth(format, options.k), options.columns)
        loop = bench.best_loop()
        for rows in options.rows:
            speed, rate, of_read, of_peak = measure(bench, rows, loop, options.seconds)
            print(f"{name:8} {format:6} {activations:5} {rows:5} {speed:7.1f} {of_read:10.0%}", end=" ")
            print(f"{rate:9.3f} {of_peak:11.0%}")
        read, peak = bench.read(loop) / 1e9, bench.peak() / 1e12
        print(f"  {name}: best read loop {loop}; limits now {read:.1f} GB/s, {peak:.3f} TFLOP/s")


if __name__ == "__main__":
    main()
