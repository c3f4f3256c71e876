"""One step: its rows, and the tables that make a static program fit them.

A step is a flat list of rows. The rows of one sequence are consecutive, with consecutive positions. Rows are cut into
row blocks; within a block, each sequence's rows are cut into runs small enough to fold into one attend task, and where
that leaves too few tasks for the workers, each run's context is cut along its splits too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ellm.kernels.contract import ATTEND_ITEM, FOLD, MERGE_ITEM, SAMPLING, SPLIT, STEP
from ellm.scheduler.program import Kind, Program

TASKS_PER_WORKER = 4  # fewer attend tasks than this per worker: cut the context
MOST_TASKS = (1 << 20) - 1  # of one group: what a packed slice can say


@dataclass
class StepInput:
    """The rows of a step and where its results go. Arrays are kept until the step has ended."""

    tokens: np.ndarray  # int32 [rows]
    positions: np.ndarray  # int32 [rows]
    slots: np.ndarray  # int32 [rows]: index of the row's sequence in ranges
    ranges: np.ndarray  # uint64 [slots]: addresses of the sequences' KV ranges
    logit_row: np.ndarray  # int32 [logit rows]: rows that want logits, ascending
    logits: np.ndarray  # float32 [logit rows, vocab]: written
    sampling: np.ndarray | None = None  # SAMPLING [logit rows]; None: nothing is sampled
    sampled: np.ndarray | None = None  # int32 [logit rows]: written
    logprob: np.ndarray | None = None  # float32 [logit rows]: written


@dataclass
class Run:
    """Consecutive rows of one sequence within one row block."""

    row: int
    rows: int
    slot: int
    position: int

    def splits(self, window: int) -> tuple[int, int]:
        """The splits of the context that its rows see, [first, last)."""
        first = max(0, self.position - window + 1) // SPLIT if window else 0
        return first, (self.position + self.rows - 1) // SPLIT + 1


class StepTables:
    """What `ellm_step` of kernels/task.h points to, and `counts[kind, block]`.

    Raises ValueError, naming the field, for rows that the program cannot run.
    """

    def __init__(self, program: Program, step: StepInput, workers: int):
        self.tokens = _rows("tokens", step.tokens, program.vocab)
        self.rows = len(self.tokens)
        if not 1 <= self.rows <= program.chunk:
            raise ValueError(f"a step has 1 to {program.chunk} rows, not {self.rows}")
        self.positions = _rows("positions", step.positions, program.context, self.rows)
        self.ranges = np.ascontiguousarray(step.ranges, np.uint64)
        self.slots = _rows("slots", step.slots, len(self.ranges), self.rows)
        self.logit_row = _rows("logit_row", step.logit_row, self.rows)
        self.logit_rows = len(self.logit_row)
        if np.any(np.diff(self.logit_row) <= 0):
            raise ValueError(f"logit_row must ascend: {self.logit_row.tolist()}")
        self.logits = _output("logits", step.logits, np.float32, (self.logit_rows, program.vocab))
        self.sampling, self.sampled, self.logprob = step.sampling, step.sampled, step.logprob
        if self.sampling is not None:
            _output("sampling", self.sampling, SAMPLING, (self.logit_rows,))
            _output("sampled", self.sampled, np.int32, (self.logit_rows,))
            _output("logprob", self.logprob, np.float32, (self.logit_rows,))
        self.sample_rows = 0 if self.sampling is None else self.logit_rows
        self.counts = np.zeros((program.kinds, program.blocks), np.int32)
        self._count_rows(program)
        self._cut_attention(program, workers)
        _check_tasks(program, self.counts)

    def record(self, number: int, partials: int) -> np.ndarray:
        """The C struct `ellm_step`: this step's number, the addresses of the arrays held here and of the partials."""
        record = np.zeros(1, STEP)
        record["number"], record["partials"] = number, partials
        for name in ("rows", "logit_rows", "sample_rows"):
            record[name] = getattr(self, name)
        for name in ("tokens", "positions", "slots", "ranges", "logit_row", "logits", "sampling", "sampled", "logprob"):
            array = getattr(self, name)
            record[name] = 0 if array is None else array.ctypes.data
        for name in ("items", "item_begin", "merges", "merge_begin"):
            for c, array in enumerate(getattr(self, name)):
                record[name][0, c] = array.ctypes.data
        return record

    def _count_rows(self, program: Program) -> None:
        begin = np.arange(program.blocks) * program.row_block
        self.counts[Kind.ROWS] = begin < self.rows
        self.counts[Kind.LOGITS] = begin < self.logit_rows
        self.counts[Kind.SAMPLE] = np.clip(self.sample_rows - begin, 0, program.row_block)

    def _runs(self, program: Program) -> list[list[Run]]:
        """Each block's runs, none longer than one attend task takes."""
        starts = np.ones(self.rows, bool)
        starts[1:] = (np.diff(self.slots) != 0) | (np.diff(self.positions) != 1)
        begins = np.flatnonzero(starts)
        if len(np.unique(self.slots)) != len(begins):
            raise ValueError("the rows of a sequence must be consecutive, with consecutive positions")
        blocks: list[list[Run]] = [[] for _ in range(program.blocks)]
        most = max(1, FOLD // max(1, program.fold_heads))
        for begin, end in zip(begins.tolist(), [*begins[1:].tolist(), self.rows], strict=True):
            slot, first = int(self.slots[begin]), int(self.positions[begin])
            row = begin
            while row < end:
                block = row // program.row_block
                rows = min(most, end - row, (block + 1) * program.row_block - row)
                blocks[block].append(Run(row, rows, slot, first + row - begin))
                row += rows
        return blocks

    def _cut_attention(self, program: Program, workers: int) -> None:
        """Attend and merge items of each window class. A block's classes share partials: it attends one at a time."""
        blocks = self._runs(program)
        items: list[list[tuple[int, ...]]] = [[] for _ in program.windows]
        merges: list[list[tuple[int, ...]]] = [[] for _ in program.windows]
        self.item_begin = [np.zeros(program.blocks + 1, np.int32) for _ in program.windows]
        self.merge_begin = [np.zeros(program.blocks + 1, np.int32) for _ in program.windows]
        free = 0
        for block, runs in enumerate(blocks):
            base = free
            for c, window in enumerate(program.windows):
                few = len(runs) * program.kv_heads < TASKS_PER_WORKER * workers
                used = _cut_runs(runs, window, base, program.partials if few else 0, items[c], merges[c])
                free = max(free, used)
                self.item_begin[c][block + 1] = len(items[c])
                self.merge_begin[c][block + 1] = len(merges[c])
                self.counts[Kind.ITEMS + 2 * c, block] = self.item_begin[c][block + 1] - self.item_begin[c][block]
                self.counts[Kind.MERGES + 2 * c, block] = self.merge_begin[c][block + 1] - self.merge_begin[c][block]
        self.items = [np.array(rows, ATTEND_ITEM) for rows in items]
        self.merges = [np.array(rows, MERGE_ITEM) for rows in merges]


def _cut_runs(
    runs: list[Run], window: int, free: int, partials: int, items: list[tuple[int, ...]], merges: list[tuple[int, ...]]
) -> int:
    """Append the items of some runs, cut along splits while partials [free, partials) last; returns the next free."""
    for run in runs:
        first, last = run.splits(window)
        need = run.rows * (last - first)
        where = (run.row, run.rows, run.slot, run.position)
        if last - first == 1 or free + need > partials:
            items.append((*where, first, last, -1, first, last, 0))
            continue
        items.extend((*where, split, split + 1, free, first, last, 0) for split in range(first, last))
        merges.append((run.row, run.rows, free, last - first))
        free += need
    return free


def _rows(name: str, values: np.ndarray, limit: int, length: int | None = None) -> np.ndarray:
    array = np.ascontiguousarray(values, np.int32)
    if array.ndim != 1 or (length is not None and len(array) != length):
        raise ValueError(f"{name} has shape {array.shape}, expected ({'rows' if length is None else length},)")
    if len(array) and not (array.min() >= 0 and array.max() < limit):
        raise ValueError(f"{name} are {array.min()} to {array.max()}, allowed are 0 to {limit - 1}")
    return array


def _output(name: str, array: np.ndarray | None, dtype: np.dtype | type, shape: tuple[int, ...]) -> np.ndarray:
    """An array that kernels write or read as it is."""
    if array is None or array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        got = "nothing" if array is None else f"{array.dtype} {array.shape}"
        raise ValueError(f"{name} is {got}, expected C-contiguous {np.dtype(dtype)} {shape}")
    return array


def _check_tasks(program: Program, counts: np.ndarray) -> None:
    for kind, tiles in program.most_tiles.items():
        tasks = int(counts[kind].max()) * tiles
        if tasks > MOST_TASKS:
            raise ValueError(f"a group of {tasks} tasks: at most {MOST_TASKS} fit")
