"""Programs made ready to run on a pool."""


cdef class LoadedProgram:
    """A program with its memory: arena, scratch, partials, and the scheduler's own tables. Made by `Pool.load`.

    number: of the last step that a run has ended with, or its `meanwhile` was called for; may be raised, never lowered.
    """

    cdef readonly Pool pool
    cdef readonly object program
    cdef public int64_t number
    cdef ProgramState *state
    cdef uint64_t weights_address
    cdef list memory  # Pages
    cdef dict arrays  # NumPy arrays that the state points to
    cdef StepTables tables  # of the last plan
    cdef StepTables spare  # of the one before, which may be running
    cdef Rings rings  # None: nothing is recorded
    cdef readonly list watched  # what `watch` returned
    cdef float *partials

    def __init__(self, Pool pool, program, table, uint64_t weights_address):
        program.check()
        missing = [name for name in program.kernels if name not in table.addresses]
        if missing:
            raise InputError(f"the {table.isa} kernels lack {', '.join(missing)}, which this program needs")
        self.pool, self.program, self.number, self.weights_address = pool, program, 0, weights_address
        self.memory, self.arrays, self.watched = [], {}, []
        self.state = <ProgramState *>self.take(sizeof(ProgramState), "scheduler state")
        self.state.pool = pool.state
        domains = max(1, len(topology.domains(pool.cores)))
        self.tables, self.spare = [StepTables(program, pool.threads, domains) for _ in range(2)]
        self.state.kinds, self.state.blocks = program.kinds, program.blocks
        self.state.counts = <int32_t *>self.take(4 * program.kinds * program.blocks, "counts of a step")
        self.fill_args(weights_address)
        self.fill_groups(table.addresses)
        self.fill_events()
        self.fill_streams()
        self.fill_workers()
        self.partials = <float *>self.take(4 * program.partials * program.partial_floats, "partials")
        self.state.roots, self.state.root_count = self.keep("roots", program.roots), len(program.roots)
        self.state.enter = <void (*)() noexcept nogil><size_t>table.enter
        self.state.leave = <void (*)() noexcept nogil><size_t>table.leave

    cdef char *take(self, size, purpose, bint huge=False) except NULL:
        """Zeroed pages that live as long as this object."""
        pages = Pages(size, purpose, huge=huge)
        self.memory.append(pages)
        return (<Pages>pages).base

    cdef const int32_t *keep(self, name, values) except NULL:
        """The address of int32 values, held by this object."""
        array = np.ascontiguousarray(values, np.int32) if len(values) else np.zeros(1, np.int32)
        self.arrays[name] = array
        return <const int32_t *><size_t>array.ctypes.data

    cdef fill_args(self, uint64_t weights_address):
        program = self.program
        args = np.array(program.args, np.uint8, order="C").reshape(-1)
        for op, byte in program.relocations.tolist():
            at = op * ARGS_BYTES + byte
            args[at : at + 8].view(np.uint64)[0] += np.uint64(weights_address)
        self.arrays["args"] = args
        self.state.args = <const char *><size_t>args.ctypes.data
        self.state.args_bytes = ARGS_BYTES
        self.state.row_block = program.row_block
        self.state.section_bytes = program.section_bytes
        self.state.arena = self.take(program.arena_bytes, "arena", huge=True)

    cdef fill_groups(self, addresses):
        program = self.program
        cdef int32_t count = len(program.groups), i
        cdef const int32_t *signals_begin = self.keep("signals.begin", program.signals.begin)
        cdef const int32_t *after = self.keep("next", following(program))
        cdef const int32_t[::1] op_kernel = np.ascontiguousarray(program.op_kernel, np.int32)
        cdef const int32_t[::1] op = np.ascontiguousarray(program.groups["op"])
        cdef const int32_t[::1] block = np.ascontiguousarray(program.groups["block"])
        cdef const int32_t[::1] kind = np.ascontiguousarray(program.groups["kind"])
        cdef const int32_t[::1] tiles = np.ascontiguousarray(program.groups["tiles"])
        cdef const int32_t[::1] logit = np.ascontiguousarray(program.groups["logit_rows"])
        cdef const int64_t[::1] counts = np.ascontiguousarray(program.groups["counts"])
        cdef const int32_t[::1] wake = self.fill_wakes()
        cdef const int32_t[::1] completes_empty = np.ascontiguousarray(program.groups["completes_empty"])
        cdef const uint64_t[::1] kernel = np.array([addresses[name] for name in program.kernels], np.uint64)
        cdef int32_t blocks = program.blocks
        cdef Group *group
        self.state.groups = <Group *>self.take(count * sizeof(Group), "groups")
        self.state.log = <uint64_t *>self.take((count + 1) * sizeof(uint64_t), "log")
        self.state.tallies_of_group = 1 + self.pool.crews.count if self.pool.crews.count > 1 else 1
        self.state.tallies = <Tally *>self.take(count * self.state.tallies_of_group * sizeof(Tally), "counts of tasks")
        self.state.group_count = count
        self.state.signals = self.keep("signals", program.signals.items)
        for i in range(count):
            group = &self.state.groups[i]
            group.kernel = <ellm_kernel><size_t>kernel[op_kernel[op[i]]]
            group.op, group.block, group.tiles = op[i], block[i], tiles[i]
            group.completes_empty = completes_empty[i]
            if counts[i] < 0:
                group.rows = ROWS_OF_LOGITS if logit[i] else ROWS_OF_BLOCK if kind[i] == Kind.ROWS else ROWS_OF_STEP
                group.count = self.state.counts + kind[i] * blocks + block[i]
            else:
                group.rows = ROWS_OF_EXPERT
                group.count = <const int32_t *>(self.state.arena + counts[i]) + block[i]
            group.signals_begin, group.signals_end = signals_begin[i], signals_begin[i + 1]
            group.next, group.wake = after[i], wake[i]

    cdef fill_wakes(self):
        """Returns each group's index in wakes, or -1."""
        program = self.program
        cdef Wake *wakes = <Wake *>self.take(len(program.wakes) * sizeof(Wake), "wakes")
        wake_of = np.full(len(program.groups), -1, np.int32)
        for i, (group, where, first, join) in enumerate(program.wakes.tolist()):
            wakes[i].list = <const int32_t *>(self.state.arena + <int64_t>where)
            wakes[i].first, wakes[i].then, wakes[i].join = first, program.second_of(i), join
            wake_of[group] = i
        self.state.wakes = wakes
        return wake_of

    cdef fill_events(self):
        program = self.program
        cdef int32_t count = len(program.events), i
        cdef const int32_t *publishes_begin = self.keep("publishes.begin", program.publishes.begin)
        cdef const int32_t *triggers_begin = self.keep("triggers.begin", program.triggers.begin)
        cdef const int32_t[::1] needed = np.ascontiguousarray(program.events["needed"])
        self.state.events = <Event *>self.take(count * sizeof(Event), "events")
        self.state.event_count = count
        self.state.end = program.end
        self.state.publishes = self.keep("publishes", program.publishes.items)
        self.state.triggers = self.keep("triggers", program.triggers.items)
        dynamic = np.flatnonzero(program.events["dynamic"] >= 0).tolist()
        cdef Dynamic *counting = <Dynamic *>self.take(len(dynamic) * sizeof(Dynamic), "dynamic events")
        for i, number in enumerate(dynamic):
            counting[i].event = number
            counting[i].needed, counting[i].kind = program.events[number].tolist()
        self.state.dynamic, self.state.dynamic_count = counting, len(dynamic)
        for i in range(count):
            self.state.events[i].needed = needed[i]
            self.state.events[i].publishes_begin = publishes_begin[i]
            self.state.events[i].publishes_end = publishes_begin[i + 1]
            self.state.events[i].triggers_begin = triggers_begin[i]
            self.state.events[i].triggers_end = triggers_begin[i + 1]

    cdef fill_streams(self):
        """What an idle worker prefetches: only matmuls read weights as one run of tiles after the other."""
        program = self.program
        self.state.streams = <Stream *>self.take(len(program.op_names) * sizeof(Stream), "streams")
        cdef Stream *streams = <Stream *>self.state.streams
        cdef int32_t op
        expert = np.zeros(len(program.op_names), bool)
        expert[program.groups["op"][program.groups["counts"] >= 0]] = True
        for op in range(len(program.op_names)):
            kernel = program.kernels[program.op_kernel[op]]
            if "task_tiles" in FIELDS.get(kernel, ()):
                args = unpack(kernel, self.arrays["args"][op * ARGS_BYTES : (op + 1) * ARGS_BYTES])
                streams[op].weights = <const char *><size_t>args["weight"]
                streams[op].task_bytes = args["task_tiles"] * NUMBERED[args["format"]].column_bytes(args["k_tiles"])
                streams[op].expert_bytes = args["bank_stride"] if expert[op] else 0

    cdef fill_workers(self):
        program = self.program
        cdef int32_t workers = self.pool.state.workers, events = len(program.events), i
        cdef size_t slices = _paged(len(program.groups) * sizeof(uint64_t))  # a worker's lie in its own node
        cdef size_t scratch = (program.scratch_bytes + HUGE - 1) // HUGE * HUGE
        cdef char *slices_base = self.take(workers * slices, "slices")
        cdef char *scratch_base = self.take(workers * scratch, "scratch", huge=True)
        cdef int32_t *queues = <int32_t *>self.take((workers + 1) * events * sizeof(int32_t), "event queues")
        cdef WorkerState *worker
        self.state.workers = <WorkerState *>self.take((workers + 1) * sizeof(WorkerState), "workers")
        for i in range(workers + 1):
            worker = &self.state.workers[i]
            worker.program, worker.index, worker.queue = self.state, i, queues + i * events
            if i == workers:
                return
            worker.slices = <uint64_t *>(slices_base + i * slices)
            worker.task.step = &self.state.step
            worker.task.arena = self.state.arena
            worker.task.section_bytes = self.state.section_bytes
            worker.task.scratch = scratch_base + i * scratch
            worker.task.error = &worker.error
            worker.task.row_block = self.state.row_block
            worker.task.worker = i

    def run(self, inputs, meanwhile=None):
        """Run one step and return when it has ended; the GIL is released until then, but for `meanwhile`, which is called
        once the step has begun and must not ask the pool for anything. Steps of a pool run one at a time.

        What `meanwhile` returns, a Successor if it is not None, begins as soon as the step has ended, unless `hold` was
        called, a kernel failed or a row drew one of its `ends`. If it begins it is one more step of this run, for which
        `meanwhile` is called again.

        Raises ValueError for rows that do not fit the program, StepError if a kernel failed in the last step (the next
        one is not affected), RuntimeError if the pool is closed or another process made it.
        """
        if self.pool.process != getpid():
            raise RuntimeError("the pool's workers are threads of another process, of which this one is a fork")
        cdef bint opened = False
        cdef uint64_t failure = 0
        cdef int64_t begin
        with self.pool.lock:
            if not self.pool.started:
                raise RuntimeError("the pool is closed")
            begin = clock_ticks()
            self.plan_step(inputs, None)
            if self.rings is not None:
                self.record_of_caller(RECORD_PREPARE, begin, len(inputs.tokens), self.number + 1)
            begin = clock_ticks()
            with nogil:
                opened = open_step(self.state)
            if not opened:
                raise ValueError("no root of the program has a task for these rows")
            while opened:
                opened = self.go_on(meanwhile, begin)
                begin = clock_ticks()
            failure = self.state.failure
        if failure:
            raise StepError(<int32_t><uint32_t>failure, self.program.op_names[(failure >> 32) - 1])

    cdef bint go_on(self, meanwhile, int64_t begin) except -1:
        """Wait until the step that is under way has ended. Whether another one has begun."""
        cdef uint32_t number = load_word(&self.pool.state.begun)
        cdef int64_t rows = self.state.step.rows
        cdef bint planned = False, asked = False, follows = False
        self.number += 1
        try:
            successor = None if meanwhile is None else meanwhile()
            if successor is not None and not self.pool.wanted:
                self.plan_step(successor.inputs, successor.ends)
                planned, asked = True, ask_to_follow(self.state)
        finally:
            with nogil:
                await_step(self.pool.state, number)
                follows = follow(self.state) if planned and not asked else load_word(&self.pool.state.begun) != number
        if self.rings is not None:
            self.record_of_caller(RECORD_STEP, begin, rows, self.number)
        return follows

    def hold(self):
        """Have the step that is under way be the last of its run, unless another one has begun. Never blocks."""
        self.pool.hold()

    @property
    def ended_ns(self):
        """When the last step but the one that has followed it ended, as time.perf_counter_ns counts."""
        return self.pool.state.ended_ns[self.pool.state.begun - 1 & 1]

    cdef int plan_step(self, inputs, ends) except -1:
        """Plan the step that begins next; one with `ends`, int32 [rows, n], follows the one that is under way."""
        cdef Plan *plan = &self.state.plan
        self.tables, self.spare = self.spare, self.tables
        plan.step = self.tables.fill_step(inputs)[0]
        plan.step.number, plan.step.partials = self.number + 1, self.partials
        plan.counts, plan.ends_each = self.tables.count, 0
        if ends is not None:
            if not plan.step.rows == plan.step.sample_rows == self.state.step.sample_rows:
                raise ValueError(f"{plan.step.rows} rows follow a step that draws {self.state.step.sample_rows} tokens")
            plan.ends, plan.ends_each = self.keep("ends", ends.reshape(-1)), ends.shape[1]
        return 0

    cdef record_of_caller(self, int32_t what, int64_t begin, int64_t rows, int64_t number):
        record(self.rings.of(self.pool.threads), what, begin, clock_ticks(), -1, <int32_t>rows, <uint32_t>number)

    def record(self, Rings rings):
        """Have every worker, and the caller after them, record into these rings from the next step on; None: no more."""
        cdef int i
        with self.pool.between_steps():
            self.rings = rings
            for i in range(self.pool.threads + 1):
                self.state.workers[i].ring = NULL if rings is None else rings.of(i)

    def watch(self, places):
        """For each of the program's wakes an int32 array [2, length]: a copy of (offset, length) of the arena as it was when
        the wake's group was done, in the last steps that were recorded, each in the row of its number's parity.
        """
        with self.pool.between_steps():
            self.watched = [np.zeros((2, length), np.int32) for _, length in places]
            for i, (offset, length) in enumerate(places):
                if not 0 <= offset <= self.program.arena_bytes - 4 * length:
                    raise ValueError(f"offset {offset}, {length} words: the arena has {self.program.arena_bytes} bytes")
                self.state.wakes[i].watched = self.state.arena + <int64_t>offset
                self.state.wakes[i].copy = <char *><size_t>self.watched[i].ctypes.data
                self.state.wakes[i].bytes = 4 * length
        return self.watched

    def trace(self, capacity=1 << 16):
        """Records what the workers do in the steps from now on: a Trace, with room for `capacity` records a worker."""
        return Trace(self, capacity)

    def statistics(self):
        """Counts of tasks run, ranges stolen and parks within steps: `total`, `last` (step) and per worker of `last`.

        `operators`: the `groups` (row blocks, or experts hit) and `tasks` of each operator that ran in the last step.
        """
        names = ("tasks", "steals", "parks")
        total = np.zeros((self.pool.threads, 3), np.int64)
        before = np.zeros((self.pool.threads, 3), np.int64)
        cdef WorkerState *worker
        with self.pool.between_steps():
            for i in range(self.pool.threads):
                worker = &self.state.workers[i]
                total[i] = load_relaxed(&worker.tasks), load_relaxed(&worker.steals), load_relaxed(&worker.parks)
                before[i] = total[i]
                if worker.joined == self.state.generation:
                    before[i] = worker.tasks_before, worker.steals_before, worker.parks_before
            operators = self.operators()
        last = total - before
        return {
            "steps": self.number,
            "total": dict(zip(names, total.sum(0).tolist(), strict=True)),
            "last": dict(zip(names, last.sum(0).tolist(), strict=True)),
            "workers": [dict(zip(names, row, strict=True)) for row in last.tolist()],
            "operators": operators,
        }

    @property
    def experts_woken(self):
        """How often an expert had rows in a step, of all steps so far. Waits for nothing."""
        cdef uint64_t found = 0
        cdef int i
        for i in range(self.pool.threads):
            found += load_relaxed(&self.state.workers[i].woken)
        return found

    def ran(self):
        """The groups that ran in the last step, in the order in which they became ready: int64 [n].

        Waits for a step that is under way, and for nothing else; a step takes no longer for it.
        """
        cdef uint64_t[::1] log = np.empty(len(self.program.groups) + 1, np.uint64)
        cdef uint64_t length
        with self.pool.between_steps():
            length = self.state.tail
            memcpy(&log[0], self.state.log, length * sizeof(uint64_t))
        numbers = (np.asarray(log)[:length] & np.uint64(0xFFFFFFFF)).astype(np.int64)
        return numbers[numbers != <int64_t>LOG_END] - 1

    def hidden(self, rows):
        """The final hidden state, after its norm, of these rows of the last step: float32 [n, width].

        The step leaves them behind and takes no longer for it. Raises ValueError if there was no such row.
        """
        place = self.program.hidden
        cdef const int32_t[::1] wanted = np.ascontiguousarray(rows, np.int32)
        cdef Py_ssize_t i, count = wanted.shape[0]
        cdef int64_t size = 4 * place.width, offset = place.offset, row_block = self.state.row_block
        cdef float[:, ::1] found = np.empty((count, place.width), np.float32)
        cdef const char *section
        with self.pool.between_steps():
            for i in range(count):
                if not 0 <= wanted[i] < self.state.step.rows:
                    raise ValueError(f"row {wanted[i]}: the last step had {self.state.step.rows} rows")
                section = self.state.arena + wanted[i] // row_block * self.state.section_bytes
                memcpy(&found[i, 0], section + offset + wanted[i] % row_block * size, size)
        if place.norm < 0:
            return np.asarray(found)
        weights = memory(self.weights_address + place.norm, (place.width,), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            return norm(np.asarray(found), weights, place.eps)

    cdef operators(self):
        """The groups and tasks of each operator in the last step: its log says which groups ran."""
        cdef const Group *group
        cdef uint64_t entry, i
        found = {}
        for i in range(self.state.tail):
            entry = self.state.log[i]
            if <uint32_t>entry != LOG_END:
                group = &self.state.groups[<uint32_t>entry - 1]
                counted = found.setdefault(self.program.op_names[group.op], {"groups": 0, "tasks": 0})
                counted["groups"] += 1
                counted["tasks"] += group.deal.tasks
        return found


def _paged(size):
    return -(-size // PAGE) * PAGE
