"""The tables that make a static program fit one step.

Rows are cut into row blocks; within a block, each sequence's rows are cut into runs small enough to fold into one
attend task. Where that leaves too few tasks for the workers, or unequal ones, each run's context is cut into its spans or
leaves, and the heads that share keys are dealt to several tasks. No bit of a result depends on it.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport INT32_MAX, int32_t, int64_t

cdef extern from "wait.h" nogil:
    void raise_flag(int32_t *flag)

from ellm.kernels.task cimport (
    ELLM_LEAF, ELLM_PIECE, ELLM_SPAN, ELLM_SPLIT, ELLM_WINDOWS, ellm_attend_item, ellm_merge_item, ellm_sampling, ellm_step
)

import numpy as np

from ellm.kernels.contract import ATTEND_ITEM, FOLD, MERGE_ITEM, SAMPLING, STEP
from ellm.scheduler.program import MOST_TASKS, Kind

cdef enum:
    TASKS_PER_WORKER = 4  # fewer attend tasks than this per worker: fold fewer rows
    FEWEST_FOLDED = 64  # rows of a task that still amortise its reads
    FEWEST_HEADS = 16  # of a task whose heads are dealt to several: a tile's rows
    READ_ROWS = 32  # folded rows of as much work as to read a task's keys and values
    TASK_KEYS = 16  # keys of as much work as to begin a task
    PARTIAL_KEYS = 96  # keys of as much work for a folded row as to store and merge a partial of it
    MERGE = 10240  # keys times rows of as much work as it takes to publish the merges
    MERGES_PER_WORKER = 2
    WHOLE = 0  # how far a run's context is cut
    SPANS = 1
    LEAVES = 2
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
        self.partials, self.workers, self.kv_heads = program.partials, workers, max(1, program.kv_heads)
        self.fold_heads = max(1, program.fold_heads)
        self.head_parts = -(-self.fold_heads // FOLD)
        self.most_items = (self.chunk + self.partials) * self.head_parts + 4 * TASKS_PER_WORKER * workers
        self.most_tiles = [(kind, tiles) for kind, tiles in program.most_tiles.items()]
        self.counts = np.zeros((self.kinds, self.row_blocks), np.int32)
        self.count = <int32_t *>address(self.counts)
        self.run_memory = np.zeros((self.chunk, 4), np.int32)
        self.runs = <Run *>address(self.run_memory)
        self.run_begins = np.zeros(self.row_blocks + 1, np.int32)
        self.run_begin = <int32_t *>address(self.run_begins)
        self.seen = np.zeros(0, np.int64)
        self.based = np.zeros(0, np.uint64)
        self.block_offsets = program.block_offsets
        self.all_items = [np.zeros(self.most_items, ATTEND_ITEM) for _ in self.windows]
        most_merges = self.partials + MERGES_PER_WORKER * workers
        self.all_merges = [np.zeros(most_merges, MERGE_ITEM) for _ in self.windows]
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
        self.input_rows, record.input_rows = step.input_rows, NULL
        if self.program.input_width:
            shape = (record.rows, self.program.input_width)
            record.input_rows = <const float *>as_it_is("input_rows", self.input_rows, FLOAT32, shape)
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

    cdef void cut_rows(self) noexcept:
        """Fill `runs`, none longer than one attend task takes, and where those of each row block begin."""
        cdef const ellm_step *record = &self.record
        cdef int64_t most = max(self.fewest_rows, min(self.most_rows, record.rows // self.least_runs)), row, block
        cdef int32_t count = 0
        cdef Run *run = NULL
        for row in range(record.rows):
            if row % self.row_block == 0:
                self.run_begin[row // self.row_block] = count
            if row % self.row_block == 0 or run.rows == most or not follows(record, row):
                run = &self.runs[count]
                run.row, run.rows, run.slot, run.position = <int32_t>row, 0, record.slots[row], record.positions[row]
                count += 1
            run.rows += 1
        for block in range((record.rows - 1) // self.row_block + 1, self.row_blocks + 1):
            self.run_begin[block] = count

    cdef void cut_attention(self):
        """Attend and merge items of each window class. A block's classes share partials: it attends one at a time."""
        cdef int64_t block, c, base, free = 0
        cdef Cut cuts[ELLM_WINDOWS]
        self.cut_rows()
        for c in range(self.classes):
            cuts[c] = self.best_cut(self.windows[c])
        for block in range(self.row_blocks):
            base = free
            for c in range(self.classes):
                free = max(free, self.cut_runs(self.windows[c], c, block, base, cuts[c]))

    cdef Cut best_cut(self, int64_t window) noexcept:
        """The cut with which the workers would be done first."""
        cdef Cut found, tried
        cdef double work, least = -1
        cdef int64_t level
        found.level, found.head_parts, found.merge_parts = WHOLE, self.head_parts, 1
        for level in range(LEAVES + 1):
            tried.level, tried.head_parts = level, self.head_parts
            while tried.head_parts == self.head_parts or tried.head_parts * FEWEST_HEADS <= self.fold_heads:
                work = self.work(window, &tried)
                if work >= 0 and (least < 0 or work < least):
                    found, least = tried, work
                tried.head_parts += 1
        return found

    cdef double work(self, int64_t window, Cut *cut) noexcept:
        """Keys times rows that the last worker will have got when all is done, or -1 if there is no room for that cut.

        Workers take the tasks in rounds, and one of them may begin the longest task late.
        """
        cdef double total = 0, longest = 0, late, each, keys, mean
        cdef int64_t n, units, folded, tasks = 0, partials = 0, cut_runs = 0
        cdef int64_t heads = (self.fold_heads + cut.head_parts - 1) // cut.head_parts
        cdef Extent extent
        for n in range(self.run_begin[self.row_blocks]):
            extent = extent_of(&self.runs[n], window, cut.level)
            folded = self.runs[n].rows * heads
            each = READ_ROWS + folded
            keys = extent.last - extent.first
            total += (keys + extent.units * TASK_KEYS) * each
            tasks += extent.units
            if extent.units > 1:
                total += extent.units * folded * PARTIAL_KEYS
                partials += extent.units * self.runs[n].rows
                cut_runs += 1
                keys = most_keys(extent)
                each += folded * PARTIAL_KEYS / keys
            longest = max(longest, (keys + TASK_KEYS) * each)
        if partials > self.partials or tasks * cut.head_parts > self.most_items:
            return -1
        mean = total / tasks
        tasks *= cut.head_parts * self.kv_heads
        cut.merge_parts = 1
        if cut_runs:
            cut.merge_parts = (MERGES_PER_WORKER * self.workers + cut_runs - 1) // cut_runs
            cut.merge_parts = min(cut.merge_parts, self.kv_heads * self.fold_heads)
        late = longest / 2 * (self.workers - 1) / self.workers
        return (tasks + self.workers - 1) // self.workers * mean - mean + longest + late + (MERGE if cut_runs else 0)

    cdef int64_t cut_runs(self, int64_t window, int64_t c, int64_t block, int64_t free, Cut cut) noexcept:
        """Append the items of a block's runs, cut while partials last; returns the next free partial.

        Those of one NUMA domain follow each other, as the workers of one do, so that most keys are read where they lie.
        """
        cdef int32_t *item_begin = <int32_t *>self.record.item_begin[c]
        cdef int32_t *merge_begin = <int32_t *>self.record.merge_begin[c]
        cdef ellm_attend_item *item = <ellm_attend_item *>self.record.items[c] + item_begin[block]
        cdef ellm_merge_item *merge = <ellm_merge_item *>self.record.merges[c] + merge_begin[block]
        cdef int64_t home, n, base = free
        cdef Extent extent
        cdef Run *run
        for home in range(self.domains):
            free = base
            for n in range(self.run_begin[block], self.run_begin[block + 1]):
                run = &self.runs[n]
                extent = extent_of(run, window, cut.level)
                if free + run.rows * extent.units > self.partials:
                    extent.units, extent.level = 1, WHOLE
                item = self.add_items(item, run, extent, free, cut.head_parts, home)
                if extent.units > 1:
                    if home == 0:
                        merge = add_merges(merge, run, extent, free, cut.merge_parts)
                    free += run.rows * extent.units
        item_begin[block + 1] = <int32_t>(item - self.record.items[c])
        merge_begin[block + 1] = <int32_t>(merge - self.record.merges[c])
        self.count[(ITEMS + 2 * c) * self.row_blocks + block] = item_begin[block + 1] - item_begin[block]
        self.count[(MERGES + 2 * c) * self.row_blocks + block] = merge_begin[block + 1] - merge_begin[block]
        return free

    cdef ellm_attend_item *add_items(
        self, ellm_attend_item *item, const Run *run, Extent extent, int64_t free, int64_t parts, int64_t home
    ) noexcept:
        """Append a run's items whose first keys lie in a domain, and return where the next one goes.

        Later leaves, which may be longer, come first, so that none of them is begun when all others are done.
        """
        cdef int64_t key, end = extent.last, unit, part
        for unit in range(extent.units - 1, -1, -1):
            key = unit_begin(extent, unit)
            for part in range(parts if key // ELLM_SPLIT % self.domains == home else 0):
                item.row, item.rows, item.slot, item.position = run.row, run.rows, run.slot, run.position
                item.key_begin, item.key_end = <int32_t>key, <int32_t>end
                item.partial = <int32_t>free if extent.units > 1 else -1
                item.units, item.unit, item.folded = <int32_t>extent.units, <int32_t>unit, extent.level == SPANS
                item.head_part, item.head_parts = <int32_t>part, <int32_t>parts
                item += 1
            end = key
        return item

    cdef int check_tasks(self) except -1:
        cdef int64_t kind, tiles, block
        for kind, tiles in self.most_tiles:
            for block in range(self.row_blocks):
                if self.count[kind * self.row_blocks + block] * tiles > <int64_t>MOST_TASKS:
                    tasks = self.count[kind * self.row_blocks + block] * tiles
                    raise ValueError(f"a group of {tasks} tasks: at most {MOST_TASKS} fit")
        return 0


def set_ready(flags, int64_t begin, int64_t end):
    """Say of the rows [begin, end) that what their sampling waits for is written; flags: int32, their `ready`."""
    cdef int32_t *flag = <int32_t *>as_it_is("flags", flags, INT32, (len(flags),))
    cdef int64_t i
    if not 0 <= begin <= end <= len(flags):
        raise IndexError(f"rows {begin} to {end} of {len(flags)}")
    for i in range(begin, end):
        raise_flag(flag + i)


cdef inline int64_t leaf_begin(int64_t key) noexcept:
    """Where the leaf of a key begins."""
    return key // ELLM_LEAF * ELLM_LEAF if key < ELLM_SPAN else key // ELLM_SPLIT * ELLM_SPLIT


cdef inline int64_t leaf_end(int64_t key) noexcept:
    """Where the leaf that begins at a key ends."""
    return key + (ELLM_LEAF if key < ELLM_SPAN else ELLM_SPLIT)


cdef inline int64_t units_of(int64_t first, int64_t last, int64_t level) noexcept:
    """Into how many leaves, or spans, [first, last) is cut, which begins and ends as leaves do."""
    cdef int64_t short = min(last, <int64_t>ELLM_SPAN) - min(first, <int64_t>ELLM_SPAN)
    if level == WHOLE:
        return 1
    if level == SPANS:
        return (last - 1) // ELLM_SPAN - first // ELLM_SPAN + 1
    return short // ELLM_LEAF + (last - first - short) // ELLM_SPLIT


cdef inline int64_t unit_begin(Extent extent, int64_t unit) noexcept:
    """Where that of a number begins."""
    cdef int64_t short = units_of(min(extent.first, <int64_t>ELLM_SPAN), ELLM_SPAN, LEAVES)
    if unit == 0:
        return extent.first
    if extent.level == SPANS:
        return (extent.first // ELLM_SPAN + unit) * ELLM_SPAN
    if unit < short:
        return extent.first + unit * ELLM_LEAF
    return max(extent.first, <int64_t>ELLM_SPAN) + (unit - short) * ELLM_SPLIT


cdef inline int64_t most_keys(Extent extent) noexcept:
    """Of one of what it is cut into."""
    if extent.level == LEAVES:
        return ELLM_SPLIT if extent.last > ELLM_SPAN else ELLM_LEAF
    return min(extent.last - extent.first, <int64_t>ELLM_SPAN)


cdef Extent extent_of(const Run *run, int64_t window, int64_t level) noexcept:
    """What a run sees, and how that is cut."""
    cdef Extent extent
    extent.first = leaf_begin(max(<int64_t>0, run.position - window + 1)) if window else 0
    extent.last = leaf_end(leaf_begin(run.position + run.rows - 1))
    extent.units = units_of(extent.first, extent.last, level)
    extent.level = level if extent.units > 1 else WHOLE
    return extent


cdef ellm_merge_item *add_merges(
    ellm_merge_item *merge, const Run *run, Extent extent, int64_t free, int64_t parts
) noexcept:
    """Append a run's merge items, and return where the next one goes."""
    cdef int64_t part, span = (extent.first // ELLM_SPAN + 1) * ELLM_SPAN
    for part in range(parts):
        merge.row, merge.rows, merge.partial = run.row, run.rows, <int32_t>free
        merge.units = <int32_t>extent.units
        merge.first_units = <int32_t>units_of(extent.first, min(span, extent.last), extent.level)
        merge.span_units = 1 if extent.level == SPANS else ELLM_SPAN // ELLM_SPLIT
        merge.head_part, merge.head_parts = <int32_t>part, <int32_t>parts
        merge += 1
    return merge


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
