"""The workers: they drain the log of a step, run tasks, fire events and publish groups. No Python object in here.

A step's ready groups are entries of an append-only log that every worker reads in order. A group's tasks are cut into
one home slice per worker. A worker claims from the front of its own slice; when its slices are dry it steals half of
what is left from the back of another's. Whoever finishes a group's last task signals its events and publishes what they
release; after a group that chooses experts, the groups of those too.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ellm.scheduler.threads cimport (
    INT_MAX, add_word, clock_ns, clock_ticks, compare_exchange, fetch_add, fetch_or, fetch_sub, futex_wait, futex_wake,
    load_acquire, load_ordered, load_relaxed, load_word, prefetch_lines, spin_pause, store_ordered, store_published,
    store_relaxed, store_word,
)

cdef enum:
    SPIN_NS = 30000  # how long an idle worker watches before it sleeps: about what waking it costs
    WATCHES = 32  # looks at the log between two searches for tasks to steal
    PREFETCH_BYTES = 4096

cdef uint64_t CLOSED = 1ULL << 31
cdef uint64_t ROUND = 1ULL << 32
cdef uint64_t TASKS = (1ULL << TASK_BITS) - 1

include "slices.pxi"
include "events.pxi"
include "records.pxi"


# Sleep ----------------------------------------------------------------------------------------------------------------


cdef void wake(PoolState *pool, int threads) noexcept nogil:
    """Wake sleepers, if there are any. Pairs with `sleep`: one of the two sees what the other stored first."""
    if load_word(&pool.sleepers):
        add_word(&pool.signal, 1)
        futex_wake(&pool.signal, threads)


cdef inline bint log_ready(WorkerState *self) noexcept nogil:
    return load_ordered(&self.program.log[self.cursor]) >> 32 == self.program.generation


cdef void park(WorkerState *self) noexcept nogil:
    """Sleep within a step until something is published."""
    cdef PoolState *pool = self.program.pool
    cdef uint32_t seen = load_word(&pool.signal)
    add_word(&pool.sleepers, 1)
    if not log_ready(self):
        store_relaxed(&self.parks, self.parks + 1)
        if self.ring:
            record_since(self, RECORD_WAIT, clock_ticks())
        self.program.leave()
        futex_wait(&pool.signal, seen)
        self.program.enter()
        if self.ring:
            record_since(self, RECORD_PARK, clock_ticks())
    add_word(&pool.sleepers, <uint32_t>-1)
    self.idle_since = 0


cdef void prefetch_next(WorkerState *self) noexcept nogil:
    """Fetch the first lines of the weights that the group after the last one will make this worker read."""
    cdef ProgramState *program = self.program
    cdef int32_t next = program.groups[self.last].next if self.last >= 0 else -1
    if next < 0:
        return
    cdef Group *group = &program.groups[next]
    cdef const Stream *stream = &program.streams[group.op]
    cdef int64_t task = group.tiles * <int64_t>self.index // program.pool.workers
    prefetch_lines(stream.weights + group.block * stream.expert_bytes + task * stream.task_bytes, PREFETCH_BYTES)


cdef void wait(WorkerState *self) noexcept nogil:
    """Watch the log for a moment; after too many moments, sleep."""
    cdef int i
    cdef int64_t now
    if self.ring and not self.ring.waited:
        self.ring.since, self.ring.waited = clock_ticks(), 1
    for i in range(WATCHES):
        spin_pause()
        if log_ready(self):
            return
    now = clock_ns()
    if self.idle_since == 0:
        self.idle_since = now
        prefetch_next(self)
    elif now - self.idle_since > SPIN_NS:
        park(self)


# Work -----------------------------------------------------------------------------------------------------------------


cdef void run_task(WorkerState *self, Group *group) noexcept nogil:
    """Call the kernel, unless one has failed before in this step."""
    cdef ProgramState *program = self.program
    cdef uint64_t none = 0
    cdef int64_t begin = clock_ticks() if self.ring else 0
    if load_relaxed(&program.failure):
        return
    group.kernel(&self.task)
    if self.ring:
        record_task(self, <int32_t>(group - program.groups), begin)
    if self.error:
        compare_exchange(&program.failure, &none, <uint64_t>(group.op + 1) << 32 | <uint32_t>self.error)
        self.error = 0


cdef void bind(WorkerState *self, Group *group) noexcept nogil:
    """Point this worker's task at a group."""
    cdef ProgramState *program = self.program
    cdef ellm_task *task = &self.task
    cdef int64_t rows = program.step.logit_rows if group.rows == ROWS_OF_LOGITS else program.step.rows
    task.args = program.args + group.op * program.args_bytes
    task.block = group.block
    if group.rows == ROWS_OF_EXPERT:
        task.section, task.row, task.rows = program.arena, 0, 0
        return
    task.section = program.arena + group.block * program.section_bytes
    task.row = group.block * program.row_block
    task.rows = <int32_t>min(rows - task.row, <int64_t>program.row_block)


cdef void drain(WorkerState *self, int32_t number) noexcept nogil:
    """Run the tasks of one's own slice of a group until it is dry, then count them all at once."""
    cdef ProgramState *program = self.program
    cdef Group *group = &program.groups[number]
    cdef int64_t ran = 0, ready = 0
    if not claim(self, group, &self.slices[number], &self.task.index):
        return
    bind(self, group)
    if self.ring:
        record_idleness(self, clock_ticks())
    while True:
        run_task(self, group)
        ran += 1
        if not claim(self, group, &self.slices[number], &self.task.index):
            break
    self.last = number
    self.idle_since = 0
    store_relaxed(&self.tasks, self.tasks + ran)
    if fetch_sub(&group.remaining, ran) == <uint64_t>ran:
        if group.wake >= 0:
            ready = wake_groups(self, &program.wakes[group.wake])
        signal_events_of(self, group)
        ready += fire_events(self)
        if ready > 1:  # this worker takes one itself
            wake(program.pool, <int>min(ready - 1, <int64_t>INT_MAX))


cdef inline int32_t entry_group(WorkerState *self, int32_t slot) noexcept nogil:
    return <int32_t>(<uint32_t>load_relaxed(&self.program.log[slot]) - 1)


cdef bint steal(WorkerState *self) noexcept nogil:
    """Look through the groups read so far, oldest first, nearest victim first. False: nothing found."""
    cdef ProgramState *program = self.program
    cdef int32_t slot, number, i
    if self.ring:
        self.ring.searched = clock_ticks()
    while self.oldest < self.cursor and not load_acquire(&program.groups[entry_group(self, self.oldest)].remaining):
        self.oldest += 1
    for slot in range(self.oldest, self.cursor):
        if log_ready(self):
            return True
        number = entry_group(self, slot)
        if not load_acquire(&program.groups[number].remaining):
            continue
        for i in range(program.pool.workers - 1):
            if take_half(self, number, self.victims[i]):
                store_relaxed(&self.steals, self.steals + 1)
                if self.ring:
                    self.ring.stolen = 1
                drain(self, number)
                if self.ring:
                    self.ring.stolen = 0
                return True
    return False


cdef void work(WorkerState *self) noexcept nogil:
    """Take part in a step until its log ends."""
    cdef ProgramState *program = self.program
    cdef uint64_t entry
    cdef int64_t begin = clock_ticks() if self.ring else 0
    self.cursor = self.oldest = self.idle_since = 0
    self.last = -1
    self.joined = program.generation
    self.tasks_before, self.steals_before, self.parks_before = self.tasks, self.steals, self.parks
    if self.ring:
        self.ring.waited = self.ring.stolen = 0
    program.enter()
    while True:
        entry = load_acquire(&program.log[self.cursor])
        if entry >> 32 == program.generation:
            if <uint32_t>entry == LOG_END:
                break
            self.cursor += 1
            drain(self, <int32_t>(<uint32_t>entry - 1))
        elif not steal(self):
            wait(self)
    if self.ring:
        record_idleness(self, clock_ticks())
    program.leave()
    if self.ring:
        record(self.ring, RECORD_JOIN, begin, clock_ticks(), -1, -1, <uint32_t>program.step.number)


# Steps ----------------------------------------------------------------------------------------------------------------


cdef bint join_step(PoolState *pool) noexcept nogil:
    """Wait for a step that is open and become one of its active workers. False: the pool stops."""
    cdef uint64_t state
    cdef uint32_t seen
    cdef int64_t since = clock_ns()
    while True:
        state = load_acquire(&pool.state)
        if not state & CLOSED:
            if compare_exchange(&pool.state, &state, state + 1):
                return True
        elif load_word(&pool.stop):
            return False
        elif clock_ns() - since < SPIN_NS:
            spin_pause()
        else:
            seen = load_word(&pool.signal)
            add_word(&pool.sleepers, 1)
            if load_ordered(&pool.state) & CLOSED and not load_word(&pool.stop):
                futex_wait(&pool.signal, seen)
            add_word(&pool.sleepers, <uint32_t>-1)


cdef void leave_step(PoolState *pool) noexcept nogil:
    """The last worker to leave a closed step tells the caller."""
    cdef uint64_t before = fetch_sub(&pool.state, 1)
    if <uint32_t>before == <uint32_t>(CLOSED + 1):
        store_word(&pool.finished, <uint32_t>(before >> 32))
        futex_wake(&pool.finished, 1)


cdef void *worker_main(void *argument) noexcept nogil:
    """A worker's thread: steps, one after the other, until the pool stops."""
    cdef Thread *thread = <Thread *>argument
    while join_step(thread.pool):
        work(&thread.pool.program.workers[thread.index])
        leave_step(thread.pool)
    return NULL


cdef void forget(ProgramState *program) noexcept nogil:
    """Wipe the words that carry a generation, when generations start anew: none ever comes twice."""
    cdef int32_t i
    memset(program.log, 0, (program.group_count + 1) * sizeof(uint64_t))
    for i in range(program.pool.workers):
        memset(program.workers[i].slices, 0, program.group_count * sizeof(uint64_t))
    for i in range(program.event_count):
        program.events[i].count = 0


cdef int open_step(ProgramState *program, const int32_t *roots, int32_t count) noexcept nogil:
    """Publish the roots and let the workers in. Returns 0, and opens nothing, if no root has a task."""
    cdef WorkerState *caller = &program.workers[program.pool.workers]
    cdef uint64_t era = <uint64_t>program.step.number // GENERATIONS
    cdef int64_t tasks = 0
    cdef int32_t i
    program.generation = 1 + <uint64_t>program.step.number % GENERATIONS
    if era != program.era:
        program.era = era
        forget(program)
    program.tail = program.failure = 0
    for i in range(count):
        if program.groups[roots[i]].count[0]:
            tasks += publish(caller, roots[i])
    if tasks:
        program.pool.program = program
        store_ordered(&program.pool.state, (load_relaxed(&program.pool.state) & ~(ROUND - 1)) + ROUND)
        wake(program.pool, INT_MAX)
    return tasks > 0


cdef void await_step(PoolState *pool) noexcept nogil:
    """Sleep until every worker that joined the open step has left it."""
    cdef uint32_t finished, number = <uint32_t>(load_acquire(&pool.state) >> 32)
    while True:
        finished = load_word(&pool.finished)
        if finished == number:
            return
        futex_wait(&pool.finished, finished)


cdef void stop_workers(PoolState *pool) noexcept nogil:
    """Make every worker's thread end, now or after the open step."""
    store_word(&pool.stop, 1)
    wake(pool, INT_MAX)
