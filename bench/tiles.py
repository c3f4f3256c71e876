"""Bytes that the loops of a product on AMX move between caches: which blocking, order and depth of k moves least.

    python bench/tiles.py [--rows 16 64 256] [--k 1024 4096] [--weights bf16 bf12] [--tiles 8] [--l1 48] [--l2 2048]

Each cell is bytes from L2 to L1 / from beyond L2 to L2, for each product of two tiles (16 x 32 x 16, 16 cycles of the
unit at best), of one task of so many column tiles; all of them take two minutes. `R x N` row tiles x column tiles have
their sums in registers; k is cut in parts of so many tiles, whose sums pass through C. By `columns` all parts of N
columns follow each other, by `parts` all columns meet one part of A. What kernels do (`tile_matmul` of
kernels/tile_amx.h, `expand_matmul` of expand_amx.h) has a star.

The cache lines of the loops run through two caches with sets that forget what was used longest ago. Weights come from
memory; A is in L2 as far as it fits, and where it does not stay in L1, its loads leave L1 alone (TILELOADDT1). Tiles of
12 bits are expanded into L1 a part at a time. Prefetch moves the same bytes sooner: it is left out, as is writing back.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from ellm.kernels.contract import TILE_K, TILE_N
from ellm.kernels.formats import FORMATS

LINE = 64
TILE_LINES = 16  # of any tile in registers
L1_WAYS, L2_WAYS = 12, 16
A_L1, A_L2 = 16 << 10, 1 << 20  # TILE_A_L1 and TILE_A_L2
BLOCKS = ((1, 4), (2, 2), (4, 1))
DEPTHS = (4, 8, 16, 32)
ORDERS = ("columns", "parts")


@dataclass(frozen=True)
class Case:
    """A product of `row_tiles` x `k_tiles` tiles of A with `n_tiles` column tiles of weights of a format."""

    weights: str
    row_tiles: int
    k_tiles: int
    n_tiles: int = 8

    def a_bytes(self) -> int:
        return self.row_tiles * TILE_N * self.k_tiles * LINE


@dataclass(frozen=True)
class Variant:
    """R x N tiles of C at a time, over parts of `depth` k tiles."""

    rows: int
    columns: int
    order: str
    depth: int


class Cache:
    """Lines of a cache with sets, which forget what was used longest ago; `misses` counts what was not there."""

    def __init__(self, kib: int, ways: int):
        self.ways, self.misses = ways, 0
        self.sets: list[dict[int, None]] = [{} for _ in range(kib * 1024 // LINE // ways)]

    def has(self, line: int, keep: bool = True) -> bool:
        """Whether the line was there; if `keep`, it is now, and used last."""
        lines = self.sets[line % len(self.sets)]
        found = line in lines
        self.misses += not found
        if keep:
            if found:
                del lines[line]
            elif len(lines) == self.ways:
                del lines[next(iter(lines))]
            lines[line] = None
        return found


class Replay:
    """The lines that one task touches, in order, through both caches; scratch is laid out as by kernels/matmul.pxi."""

    def __init__(self, case: Case, variant: Variant, l1: int, l2: int):
        self.case, self.variant = case, variant
        self.l1, self.l2 = Cache(l1, L1_WAYS), Cache(l2, L2_WAYS)
        self.passes = case.a_bytes() > A_L1 or case.weights != "bf16"  # A is loaded past L1
        self.a_stride = case.k_tiles | 1  # lines between rows
        self.c_stride = case.n_tiles | 1
        self.c = case.row_tiles * TILE_N * self.a_stride
        self.tiles = self.c + case.row_tiles * TILE_N * self.c_stride
        self.weight = 1 << 30
        self.stride = FORMATS[case.weights].column_bytes(case.k_tiles) // LINE
        for line in range(self.c):  # whoever made the panel left it there
            self.l2.has(line)
        self.l2.misses = 0

    def bytes_a_product(self) -> tuple[float, float]:
        """From L2 to L1, and from beyond L2."""
        for column, k in self.parts():
            depth = min(self.variant.depth, self.case.k_tiles - k)
            if self.case.weights != "bf16":
                self.expand(column, k, depth)
            for row in range(0, self.case.row_tiles, self.variant.rows):
                self.block(row, column, k, depth)
        products = self.case.row_tiles * self.case.k_tiles * self.case.n_tiles
        return LINE * self.l1.misses / products, LINE * self.l2.misses / products

    def parts(self) -> Iterator[tuple[int, int]]:
        columns = range(0, self.case.n_tiles, self.variant.columns)
        parts = range(0, self.case.k_tiles, self.variant.depth)
        if self.variant.order == "columns":
            return itertools.product(columns, parts)
        return ((column, k) for k in parts for column in columns)

    def block(self, row: int, column: int, k: int, depth: int) -> None:
        """One block of C over one part of k."""
        rows = range(row, min(row + self.variant.rows, self.case.row_tiles))
        columns = range(column, column + self.variant.columns)
        if k:
            self.sums(rows, columns)
        for step in range(depth):
            for n in columns:
                self.touch(self.b_tile(n, n - column, k, step), TILE_LINES)
            for r in rows:
                for line in range(TILE_N):
                    self.touch((r * TILE_N + line) * self.a_stride + k + step, 1, keep=not self.passes)
        self.sums(rows, columns)

    def sums(self, rows: range, columns: range) -> None:
        for r, n, line in itertools.product(rows, columns, range(TILE_N)):
            self.touch(self.c + (r * TILE_N + line) * self.c_stride + n, 1)

    def b_tile(self, n: int, slot: int, k: int, step: int) -> int:
        if self.case.weights == "bf16":
            return self.weight + n * self.stride + (k + step) * TILE_LINES
        return self.tiles + (slot * self.variant.depth + step) * TILE_LINES

    def expand(self, column: int, k: int, depth: int) -> None:
        """A part of packed tiles into L1."""
        format = FORMATS[self.case.weights]
        for slot, step in itertools.product(range(self.variant.columns), range(depth)):
            block, tile = divmod(k + step, format.block_tiles)
            at = self.weight + (column + slot) * self.stride + block * (format.block_bytes // LINE)
            self.touch(at, format.header_bytes // LINE)
            self.touch(at + (format.header_bytes + tile * format.tile_bytes) // LINE, format.tile_bytes // LINE)
            self.touch(self.b_tile(column + slot, slot, k, step), TILE_LINES)

    def touch(self, first: int, count: int, keep: bool = True) -> None:
        for line in range(first, first + count):
            if not self.l1.has(line, keep):
                self.l2.has(line)


def chosen(case: Case) -> Variant:
    """What the kernels take."""
    rows, packed = case.row_tiles * TILE_N, case.weights != "bf16"
    if case.row_tiles == 1:
        return Variant(1, 4, "columns", DEPTHS[0] if packed else case.k_tiles)
    depth = (8 if rows < 256 else 16) if packed else 32 if rows <= 64 else 8 if rows < 256 else 16
    return Variant(2, 2, "columns" if case.a_bytes() <= A_L2 else "parts", depth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512])
    parser.add_argument("--k", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--weights", nargs="+", choices=("bf16", "bf12"), default=["bf16", "bf12"])
    parser.add_argument("--tiles", type=int, default=8, help="columns of a task: a multiple of 4")
    parser.add_argument("--l1", type=int, default=48, help="KiB")
    parser.add_argument("--l2", type=int, default=2048, help="KiB")
    options = parser.parse_args()
    print("weights     k  R x N  order    depth", *(f"{rows:5} rows " for rows in options.rows))
    for weights, k, (rows, columns), order in itertools.product(options.weights, options.k, BLOCKS, ORDERS):
        for depth in sorted({*DEPTHS, k // TILE_K}):
            print(f"{weights:7} {k:5}  {rows} x {columns}  {order:8} {depth:4}", end="")
            for count in options.rows:
                case = Case(weights, -(-count // TILE_N), k // TILE_K, options.tiles)
                variant = Variant(rows, columns, order, depth)
                near, far = Replay(case, variant, options.l1, options.l2).bytes_a_product()
                print(f" {near:5.0f}/{far:4.0f}{'*' if variant == chosen(case) else ' '}", end="", flush=True)
            print()


if __name__ == "__main__":
    main()
