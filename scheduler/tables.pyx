"""The tables that make a static program fit one step.

Rows are cut into row blocks; within a block, each sequence's rows are cut into runs small enough to fold into one
attend task, and where that leaves too few tasks for the workers, each run's context is cut along its splits too.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, int64_t

cdef extern from "wait.h" nogil:
    void raise_flag(int32_t *flag)

from ellm.kernels.task cimport ELLM_PIECE, ELLM_SPLIT, ELLM_WINDOWS, ellm_attend_item, ellm_merge_item, ellm_sampling, ellm_step

import numpy as np

from ellm.kernels.contract import ATTEND_ITEM, FOLD, MERGE_ITEM, SAMPLING, STEP
from ellm.scheduler.program import MOST_TASKS, Kind

cdef enum:
    TASKS_PER_WORKER = 4  # fewer attend tasks than this per worker: fold fewer rows, then cut the context
    FEWEST_FOLDED = 64  # rows of a task that still amortise its reads
    ROWS = 0  # as in Kind
    LOGITS = 1
    SAMPLE = 2
    SPLITS = 3
    PIECES = 4
    ITEMS = 5
    MERGES = 6

assert (ROWS, LOGITS, SAMPLE) == (Kind.ROWS, Kind.LOGITS, Kind.SAMPLE)
assert (SPLITS, PIECES, ITEMS, MERGES) == (Kind.SPLITS, Kind.PIECES, Kind.ITEMS, Kind.MERGES)
assert sizeof(ellm_step) == STEP.itemsize

cdef object INT32 = np.dtype(np.int32)
cdef object FLOAT32 = np.dtype(np.float32)
cdef object UINT64 = np.dtype(np.uint64)
cdef object SAMPLING_TYPE = SAMPLING


cdef class StepTables:
    """What `ellm_step` of kernels/task.h points to, and `counts[kind, block]`, for one step after the other.

    workers: of the pool that runs the steps: decides how finely attention is cut, never what it computes.
    domains: NUMA domains to which the blocks of sequences are dealt.
    """

    def __cinit__(self, program, int64_t workers, int64_t domains=1):
        cdef int64_t c
        cdef int64_t most_items = program.chunk + program.partials
        self.program = program
        self.domains = domains
        self.row_blocks, self.row_block, self.chunk = program.blocks, program.row_block, program.chunk
        self.kinds, self.vocab, self.context = program.kinds, program.vocab, program.context
        self.windows, self.classes = list(program.windows), len(program.windows)
        if self.classes > ELLM_WINDOWS:
            raise ValueError(f"program: {self.classes} window classes, at most {ELLM_WINDOWS} fit")
        self.most_rows = max(1, FOLD // max(1, program.fold_heads))
        self.fewest_rows = max(1, FEWEST_FOLDED // max(1, program.fold_heads))
        self.least_runs = -(-TASKS_PER_WORKER * workers // program.kv_heads) if program.kv_heads else self.chunk + 1
        self.partials = program.partials
        self.most_tiles = [(kind, tiles) for kind, tiles in program.most_tiles.items()]
        self.counts = np.zeros((self.kinds, self.row_blocks), np.int32)
        self.count = <int32_t *>address(self.counts)
        self.run_memory = np.zeros((self.row_block, 4), np.int32)
        self.runs = <Run *>address(self.run_memory)
        self.seen = np.zeros(0, np.int64)
        self.based = np.zeros(0, np.uint64)
        self.block_offsets = program.block_offsets
        self.all_items = [np.zeros(most_items, ATTEND_ITEM) for _ in self.windows]
        self.all_merges = [np.zeros(max(1, self.partials), MERGE_ITEM) for _ in self.windows]
        self.item_begin = [np.zeros(self.row_blocks + 1, np.int32) for _ in self.windows]
        self.merge_begin = [np.zeros(self.row_blocks + 1, np.int32) for _ in self.windows]
        for c in range(self.classes):
            self.record.items[c] = <ellm_attend_item *>address(self.all_items[c])
            self.record.merges[c] = <ellm_merge_item *>address(self.all_merges[c])
            self.record.item_begin[c] = <int32_t *>address(self.item_begin[c])
            self.record.merge_begin[c] = <int32_t *>address(self.merge_begin[c])

    def fill(self, step):
        """Fill the tables for the rows of a StepInput, and return self.

        Raises ValueError, naming the field, for rows that the program cannot run.
        """
        self.fill_step(step)
        return self

    @property
    def rows(self):
        return self.record.rows

    @property
    def logit_rows(self):
        return self.record.logit_rows

    @property
    def sample_rows(self):
        return self.record.sample_rows

    @property
    def items(self):
        """Attend items of each window class: ATTEND_ITEM [item_begin[-1]]."""
        return [items[: begin[self.row_blocks]] for items, begin in zip(self.all_items, self.item_begin, strict=True)]

    @property
    def merges(self):
        """Merge items of each window class: MERGE_ITEM [merge_begin[-1]]."""
        return [merges[: begin[self.row_blocks]] for merges, begin in zip(self.all_merges, self.merge_begin, strict=True)]

    cdef ellm_step *fill_step(self, step) except NULL:
        """`fill`; returns the step for the kernels, whose number and partials are the caller's to set."""
        self.read(step)
        self.check_order()
        self.count_rows()
        self.cut_attention()
        self.check_tasks()
        return &self.record

    cdef int read(self, step) except -1:
        cdef ellm_step *record = &self.record
        cdef int64_t i
        self.tokens = whole("tokens", step.tokens, -1)
        record.rows = len(self.tokens)
        if not 1 <= record.rows <= self.chunk:
            raise ValueError(f"a step has 1 to {self.chunk} rows, not {record.rows}")
        self.positions = whole("positions", step.positions, record.rows)
        self.slots = whole("slots", step.slots, record.rows)
        self.logit_row = whole("logit_row", step.logit_row, -1)
        self.ranges = np.ascontiguousarray(step.ranges, UINT64)
        record.logit_rows = len(self.logit_row)
        record.tokens = limited("tokens", self.tokens, record.rows, self.vocab)
        record.positions = limited("positions", self.positions, record.rows, self.context)
        record.slots = limited("slots", self.slots, record.rows, len(self.ranges))
        record.logit_row = limited("logit_row", self.logit_row, record.logit_rows, record.rows)
        for i in range(1, record.logit_rows):
            if record.logit_row[i] <= record.logit_row[i - 1]:
                raise ValueError(f"logit_row must ascend: {self.logit_row.tolist()}")
        record.ranges = <char **>address(self.ranges)
        self.find_blocks(step)
        self.logits, self.sampling = step.logits, step.sampling
        self.sampled, self.logprob = step.sampled, step.logprob
        record.logits = <float *>as_it_is("logits", self.logits, FLOAT32, (record.logit_rows, self.vocab))
        record.sample_rows, record.sampling, record.sampled, record.logprob = 0, NULL, NULL, NULL
        if self.sampling is not None:
            shape = (record.logit_rows,)
            record.sample_rows = record.logit_rows
            record.sampling = <ellm_sampling *>as_it_is("sampling", self.sampling, SAMPLING_TYPE, shape)
            record.sampled = <int32_t *>as_it_is("sampled", self.sampled, INT32, shape)
            record.logprob = <float *>as_it_is("logprob", self.logprob, FLOAT32, shape)
        return 0

    cdef int find_blocks(self, step) except -1:
        """The table of blocks: the caller's, or one that is kept for as long as ranges lie where they lay."""
        shape = (len(self.ranges), len(self.block_offsets))
        self.record.context_blocks = shape[1]
        if step.blocks is not None:
            self.record.blocks = <char **>as_it_is("blocks", step.blocks, UINT64, shape)
            self.blocks, self.based = step.blocks, np.zeros(0, UINT64)
            return 0
        if not np.array_equal(self.based, self.ranges):
            self.based = self.ranges.copy()
            self.blocks = self.based[:, None] + self.block_offsets
        self.record.blocks = <char **>address(self.blocks)
        return 0

    cdef int check_order(self) except -1:
        """Raise ValueError unless each sequence's rows are consecutive."""
        cdef const ellm_step *record = &self.record
        cdef int64_t *seen
        cdef int64_t i
        if len(self.seen) < len(self.ranges):
            self.seen = np.zeros(len(self.ranges), np.int64)
        seen = <int64_t *>address(self.seen)
        self.fills += 1
        for i in range(record.rows):
            if i == 0 or not follows(record, i):
                if seen[record.slots[i]] == self.fills:
                    raise ValueError("the rows of a sequence must be consecutive, with consecutive positions")
                seen[record.slots[i]] = self.fills
        return 0

    cdef void count_rows(self) noexcept:
        cdef int64_t block, begin, row
        cdef int32_t last = 0
        for row in range(self.record.rows):
            last = max(last, self.record.positions[row])
        self.count[SPLITS * self.row_blocks] = last // ELLM_SPLIT + 1
        self.count[PIECES * self.row_blocks] = <int32_t>((self.record.rows + ELLM_PIECE - 1) // ELLM_PIECE)
        for block in range(self.row_blocks):
            begin = block * self.row_block
            self.count[ROWS * self.row_blocks + block] = begin < self.record.rows
            self.count[LOGITS * self.row_blocks + block] = begin < self.record.logit_rows
            self.count[SAMPLE * self.row_blocks + block] = <int32_t>max(
                0, min(self.record.sample_rows - begin, self.row_block)
            )

    cdef int64_t cut_block(self, int64_t block) noexcept:
        """Fill `runs` with those of a block, none longer than one attend task takes, and return how many they are."""
        cdef const ellm_step *record = &self.record
        cdef int64_t begin = block * self.row_block, count = 0, row, end = min(begin + self.row_block, record.rows)
        cdef int64_t most = max(self.fewest_rows, min(self.most_rows, (end - begin) // self.least_runs))
        cdef Run *run = NULL
        for row in range(begin, end):
            if row == begin or run.rows == most or not follows(record, row):
                run = &self.runs[count]
                run.row, run.rows, run.slot, run.position = <int32_t>row, 0, record.slots[row], record.positions[row]
                count += 1
            run.rows += 1
        return count

    cdef void cut_attention(self):
        """Attend and merge items of each window class. A block's classes share partials: it attends one at a time."""
        cdef int64_t block, c, runs, base, free = 0
        for block in range(self.row_blocks):
            runs = self.cut_block(block)
            base = free
            for c in range(self.classes):
                free = max(free, self.cut_runs(runs, self.windows[c], c, block, base, runs < self.least_runs))

    cdef int64_t cut_runs(
        self, int64_t count, int64_t window, int64_t c, int64_t block, int64_t free, bint cut
    ) noexcept:
        """Append the items of a block's runs, cut along splits while partials last; returns the next free partial.

        Those of one NUMA domain follow each other, as the workers of one do, so that most keys are read where they lie.
        """
        cdef int32_t *item_begin = <int32_t *>self.record.item_begin[c]
        cdef int32_t *merge_begin = <int32_t *>self.record.merge_begin[c]
        cdef ellm_attend_item *item = <ellm_attend_item *>self.record.items[c] + item_begin[block]
        cdef ellm_merge_item *merge = <ellm_merge_item *>self.record.merges[c] + merge_begin[block]
        cdef int64_t first, last, split, step, i, n, home, base = free
        cdef bint whole_run
        cdef Run *run
        for n in range(self.domains * count):
            home, i = n // count, n % count
            if i == 0:
                free = base
            run = &self.runs[i]
            first = max(<int64_t>0, run.position - window + 1) // ELLM_SPLIT if window else 0
            last = (run.position + run.rows - 1) // ELLM_SPLIT + 1
            whole_run = not cut or last - first == 1 or free + run.rows * (last - first) > self.partials
            step = last - first if whole_run else 1
            for split in range(first, last, step):
                if split % self.domains != home:
                    continue
                item.row, item.rows, item.slot, item.position = run.row, run.rows, run.slot, run.position
                item.split_begin, item.split_end = <int32_t>split, <int32_t>(split + step)
                item.split_first, item.split_last = <int32_t>first, <int32_t>last
                item.partial = -1 if whole_run else <int32_t>free
                item += 1
            if not whole_run:
                if home == 0:
                    merge.row, merge.rows, merge.partial = run.row, run.rows, <int32_t>free
                    merge.splits = <int32_t>(last - first)
                    merge += 1
                free += run.rows * (last - first)
        item_begin[block + 1] = <int32_t>(item - self.record.items[c])
        merge_begin[block + 1] = <int32_t>(merge - self.record.merges[c])
        self.count[(ITEMS + 2 * c) * self.row_blocks + block] = item_begin[block + 1] - item_begin[block]
        self.count[(MERGES + 2 * c) * self.row_blocks + block] = merge_begin[block + 1] - merge_begin[block]
        return free

    cdef int check_tasks(self) except -1:
        cdef int64_t kind, tiles, block
        for kind, tiles in self.most_tiles:
            for block in range(self.row_blocks):
                if self.count[kind * self.row_blocks + block] * tiles > <int64_t>MOST_TASKS:
                    tasks = self.count[kind * self.row_blocks + block] * tiles
                    raise ValueError(f"a group of {tasks} tasks: at most {MOST_TASKS} fit")
        return 0

    cdef int32_t active(self, int64_t kind) noexcept nogil:
        """Number of blocks whose count of a kind is not 0."""
        cdef int64_t block
        cdef int32_t found = 0
        for block in range(self.row_blocks):
            found += self.count[kind * self.row_blocks + block] != 0
        return found


def set_ready(flags, int64_t begin, int64_t end):
    """Say of the rows [begin, end) that what their sampling waits for is written; flags: int32, their `ready`."""
    cdef int32_t *flag = <int32_t *>as_it_is("flags", flags, INT32, (len(flags),))
    cdef int64_t i
    if not 0 <= begin <= end <= len(flags):
        raise IndexError(f"rows {begin} to {end} of {len(flags)}")
    for i in range(begin, end):
        raise_flag(flag + i)


cdef inline bint follows(const ellm_step *step, int64_t row) noexcept:
    """Whether a row continues the sequence of the row before."""
    return step.slots[row] == step.slots[row - 1] and step.positions[row] == step.positions[row - 1] + 1


cdef void *address(array) except? NULL:
    """Where a C-contiguous array begins."""
    cdef Py_buffer buffer
    PyObject_GetBuffer(array, &buffer, PyBUF_SIMPLE)
    PyBuffer_Release(&buffer)
    return buffer.buf


cdef whole(name, values, int64_t length):
    """int32 [length], of any length if that is -1."""
    array = np.ascontiguousarray(values, INT32)
    if array.ndim != 1 or (length >= 0 and len(array) != length):
        raise ValueError(f"{name} has shape {array.shape}, expected ({'rows' if length < 0 else length},)")
    return array


cdef const int32_t *limited(name, array, int64_t length, int64_t limit) except? NULL:
    """The address of an int32 array with values of [0, limit)."""
    cdef const int32_t *values = <const int32_t *>address(array)
    cdef bint outside = False
    cdef int64_t i
    for i in range(length):
        outside |= not 0 <= values[i] < limit
    if outside:
        raise ValueError(f"{name} are {array.min()} to {array.max()}, allowed are 0 to {limit - 1}")
    return values


cdef void *as_it_is(name, array, dtype, tuple shape) except? NULL:
    """The address of an array that kernels write or read in place."""
    if array is None or array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        got = "nothing" if array is None else f"{array.dtype} {array.shape}"
        raise ValueError(f"{name} is {got}, expected C-contiguous {dtype} {shape}")
    return address(array)
