"""The workers: they drain the log of a step, run tasks, fire events and publish groups. No Python object in here.

A step's ready groups are entries of an append-only log that every worker reads in order. A group's tasks are cut into
one home slice per worker. A worker claims from the front of its own slice; when its slices are dry it steals half of
what is left from the back of another's, of its own crew first. The tasks that were given to a crew are counted in a word
of their own, and crews that are through in that of the group. Whoever finishes a group's last task signals its events and publishes what they
release; after a group that chooses experts, the groups of those too.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ellm.kernels.task cimport ELLM_EXPERT_ROWS, ellm_sampling
from ellm.scheduler.homes cimport deals_together, expert_work, home_begin
from ellm.scheduler.threads cimport (
    add_word, clock_ns, clock_ticks, compare_exchange, fetch_add, fetch_or, fetch_sub, futex_wait, futex_wake,
    load_acquire, load_ordered, load_relaxed, load_word, prefetch_lines, spin_pause, store_ordered, store_published,
    store_relaxed, store_word, take_word,
)

cdef enum:
    WATCHES = 32  # looks at the log between two searches for tasks to steal
    ALL = 1 << 16  # sleepers: more than so many wakes could meet who falls asleep again
    NOTHING = 0  # there was to steal
    LEFT = 1  # to its owner, for a moment
    TAKEN = 2
    FETCH_BYTES = 512  # fetched between two looks: about what arrives meanwhile

cdef int64_t OFF_CORE_NS = 100_000  # between two looks: the worker was not on its core
cdef int64_t CALM_NS = 100_000_000  # for so long after that it sleeps
cdef int64_t SHARED_NS = 30_000  # when it has watched for as long as waking it costs
cdef int64_t NEVER = 1LL << 62
cdef uint64_t CLOSED = 1ULL << 31
cdef uint64_t ROUND = 1ULL << 32
cdef uint64_t TASKS = (1ULL << TASK_BITS) - 1

include "slices.pxi"
include "events.pxi"
include "records.pxi"


# Sleep ----------------------------------------------------------------------------------------------------------------


cdef inline void wake_crew(Berth *berth, uint32_t others) noexcept nogil:
    """Wake a sleeper of a crew, if there is any, who then wakes so many others.

    Pairs with `sleep`: one of the two sees what the other stored first.
    """
    if load_word(&berth.sleepers):
        add_word(&berth.signal, 1)
        if others:
            add_word(&berth.relay, others)
        futex_wake(&berth.signal, 1)


cdef void wake(PoolState *pool, int64_t threads) noexcept nogil:
    """Wake sleepers for so many tasks, each in the crew where it is at home; for as many as there are workers, all."""
    cdef int64_t before = 0, after
    cdef int32_t i
    for i in range(pool.crews):
        after = min(threads, <int64_t>pool.workers) * pool.crew_begin[i + 1] // pool.workers
        if after > before:
            wake_crew(&pool.berths[i], ALL if threads >= pool.workers else <uint32_t>(after - before - 1))
        before = after


cdef void sleep(Berth *berth, uint32_t seen) noexcept nogil:
    """Sleep until woken, unless there was a signal since `seen`, and wake those that the waker has left to be woken."""
    futex_wait(&berth.signal, seen)
    cdef uint32_t others = take_word(&berth.relay) if load_word(&berth.relay) else 0
    if others:
        futex_wake(&berth.signal, <int>min(others, <uint32_t>ALL))


cdef inline bint log_ready(WorkerState *self) noexcept nogil:
    return load_ordered(&self.program.log[self.cursor]) >> 32 == self.program.generation


cdef void park(WorkerState *self) noexcept nogil:
    """Sleep within a step until something is published."""
    cdef PoolState *pool = self.program.pool
    cdef Berth *berth = &pool.berths[pool.crew_of[self.index]]
    cdef uint32_t seen = load_word(&berth.signal)
    add_word(&berth.sleepers, 1)
    if not log_ready(self):
        store_relaxed(&self.parks, self.parks + 1)
        if self.ring:
            record_since(self, RECORD_WAIT, clock_ticks())
        self.program.leave()
        sleep(berth, seen)
        self.program.enter()
        if self.ring:
            record_since(self, RECORD_PARK, clock_ticks())
    add_word(&berth.sleepers, <uint32_t>-1)
    self.idle_since = 0


cdef void plan_fetch(WorkerState *self) noexcept nogil:
    """Look up the weights that the group after the last one will make this worker read."""
    cdef ProgramState *program = self.program
    cdef int32_t next = program.groups[self.last].next if self.last >= 0 else -1
    self.fetch = self.fetch_end = NULL
    if next < 0:
        return
    cdef Group *group = &program.groups[next]
    cdef const Stream *stream = &program.streams[group.op]
    cdef int64_t first, end
    home_tasks(program.pool, deal_of(program, group, group.tiles), self.index, self.index + 1, &first, &end)
    self.fetch = stream.weights + group.block * stream.expert_bytes + first * stream.task_bytes
    self.fetch_end = self.fetch + min((end - first) * stream.task_bytes, program.pool.fetch_bytes)


cdef void wait(WorkerState *self, bint may_sleep) noexcept nogil:
    """Watch the log for a moment; after too many moments, sleep, unless tasks were left to owners who may be asleep.

    Whoever was put off its core while it watched shares it: to watch on would only take from what it needs for tasks.
    """
    cdef int i
    cdef int64_t now
    if self.ring and not self.ring.waited:
        self.ring.since, self.ring.waited = clock_ticks(), 1
    if self.idle_since == 0:
        self.idle_since = self.looked = clock_ns()
        plan_fetch(self)
    for i in range(WATCHES):
        if self.fetch < self.fetch_end:
            prefetch_lines(self.fetch, FETCH_BYTES)
            self.fetch += FETCH_BYTES
        spin_pause()
        if log_ready(self):
            return
    now = clock_ns()
    if now - self.looked > OFF_CORE_NS:
        self.disturbed = now
    self.looked = now
    if may_sleep and now - self.idle_since > min(
        self.program.pool.spin_ns, SHARED_NS if now - self.disturbed < CALM_NS else NEVER
    ):
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


cdef inline Tally *group_tally(ProgramState *program, int32_t number) noexcept nogil:
    return &program.tallies[number * program.tallies_of_group]


cdef inline Tally *tally_of(ProgramState *program, int32_t number, int32_t crew) noexcept nogil:
    """Of a group's tasks that were given to a crew; of all of them, if that is the only one."""
    return &program.tallies[number * program.tallies_of_group + (crew + 1 if program.pool.crews > 1 else 0)]


cdef inline uint64_t empty_word(ProgramState *program, Tally *tally) noexcept nogil:
    """What `empty` is if nobody has told of stolen tasks since somebody found none: looks that follow find what was told of."""
    return program.generation << 32 | <uint32_t>load_acquire(&tally.told)


cdef inline void say_empty(Tally *tally, uint64_t word) noexcept nogil:
    """Leave word that nothing was left to steal when `empty_word` was this: what was told of since makes it void."""
    store_relaxed(&tally.empty, word)


cdef inline bint add_tasks(ProgramState *program, Tally *tally, uint64_t ran, uint64_t all) noexcept nogil:
    """Count tasks that have run. True: they were the last of all. The count starts anew in each step, as an event's."""
    cdef uint64_t counted, seen = load_relaxed(&tally.counted)
    while True:
        counted = (seen if seen >> 32 == program.generation else program.generation << 32) + ran
        if compare_exchange(&tally.counted, &seen, counted):
            break
    return <uint32_t>counted == all


cdef bint count_tasks(ProgramState *program, int32_t number, uint64_t last, uint64_t ran) noexcept nogil:
    """Count the tasks up to `last` that a worker ran of one home slice. True: they were the last ones of the group."""
    cdef PoolState *pool = program.pool
    cdef const Group *group = &program.groups[number]
    cdef uint64_t tasks = group.deal.tasks
    cdef int64_t begin, end
    cdef int32_t crew
    if pool.crews > 1:
        crew = pool.crew_of[pool.node_of[2 * (((last + 1) * pool.workers - 1) // tasks)]]  # the first of its node
        while True:
            home_tasks(pool, group.deal, pool.crew_begin[crew], pool.crew_begin[crew + 1], &begin, &end)
            if <int64_t>last < end:
                break
            crew += 1
        if not add_tasks(program, tally_of(program, number, crew), ran, end - begin):
            return False
        ran = end - begin
    if not add_tasks(program, group_tally(program, number), ran, tasks):
        return False
    say_empty(group_tally(program, number), empty_word(program, group_tally(program, number)))
    return True


cdef void drain(WorkerState *self, int32_t number) noexcept nogil:
    """Run the tasks of one's own slice of a group until it is dry, then count them all at once."""
    cdef ProgramState *program = self.program
    cdef Group *group = &program.groups[number]
    cdef int64_t ran = 0, ready = 0, last = 0
    if not claim(self, group, &self.slices[number], &self.task.index):
        return
    bind(self, group)
    if self.ring:
        record_idleness(self, clock_ticks())
    while True:
        last = self.task.index
        run_task(self, group)
        ran += 1
        if not claim(self, group, &self.slices[number], &self.task.index):
            break
    self.last = number
    self.idle_since = 0
    store_relaxed(&self.tasks, self.tasks + ran)
    if count_tasks(program, number, last, ran):
        if group.wake >= 0:
            ready = wake_groups(self, &program.wakes[group.wake])
        signal_events_of(self, group)
        ready += fire_events(self)
        if ready > 1:  # else this worker takes it
            wake(program.pool, ready)


cdef inline int32_t entry_group(WorkerState *self, int32_t slot) noexcept nogil:
    return <int32_t>(<uint32_t>load_relaxed(&self.program.log[slot]) - 1)


cdef inline bint has_run(ProgramState *program, int32_t number) noexcept nogil:
    """Whether all tasks of a group have."""
    return load_relaxed(&group_tally(program, number).counted) == program.generation << 32 | program.groups[number].deal.tasks


cdef inline void tell_of_tasks(WorkerState *self, int32_t number) noexcept nogil:
    """Make void that nothing was left of one's crew, then of the group, if what was stolen is more than one's next task."""
    cdef ProgramState *program = self.program
    cdef uint64_t begin, end
    slice_range(load_relaxed(&self.slices[number]), program, &program.groups[number], self.index, &begin, &end)
    if end - begin > 1:
        fetch_add(&tally_of(program, number, program.pool.crew_of[self.index]).told, 1)
        fetch_add(&group_tally(program, number).told, 1)


cdef int steal_of_crew(WorkerState *self, int32_t number, int32_t crew, bint fresh) noexcept nogil:
    """Look at the slices of a crew, from one on that is another for each who looks."""
    cdef PoolState *pool = self.program.pool
    cdef int32_t begin = pool.crew_begin[crew], size = pool.crew_begin[crew + 1] - begin, i, victim
    cdef int found = NOTHING
    for i in range(1, size + 1):
        victim = begin + (self.index + i) % size
        if victim != self.index:
            found = max(found, take_half(self, number, victim, fresh))
            if found == TAKEN:
                break
    return found


cdef int steal_of(WorkerState *self, int32_t number, bint fresh) noexcept nogil:
    """Look at the slices of a group, the nearest crew's first, and leave word where nothing was left."""
    cdef ProgramState *program = self.program
    cdef PoolState *pool = program.pool
    cdef Tally *group = group_tally(program, number)
    cdef Tally *tally
    cdef int32_t own = pool.crew_of[self.index], i, crew
    cdef uint64_t word_of_group = empty_word(program, group), word
    cdef int found, most = NOTHING
    if load_relaxed(&group.empty) == word_of_group:
        return NOTHING
    for i in range(pool.crews):
        crew = pool.crew_order[own * pool.crews + i]
        tally = tally_of(program, number, crew)
        word = empty_word(program, tally)
        if load_relaxed(&tally.empty) == word:
            continue
        found = steal_of_crew(self, number, crew, fresh)
        if found == TAKEN:
            tell_of_tasks(self, number)
            return TAKEN
        if found == NOTHING:
            say_empty(tally, word)
        most = max(most, found)
    if most == NOTHING:
        say_empty(group, word_of_group)
    return most


cdef int run_stolen(WorkerState *self, int32_t number, bint fresh) noexcept nogil:
    """Steal of a group and run it."""
    cdef int found = steal_of(self, number, fresh)
    if found != TAKEN:
        return found
    store_relaxed(&self.steals, self.steals + 1)
    if self.ring:
        self.ring.stolen = 1
    drain(self, number)
    if self.ring:
        self.ring.stolen = 0
    return TAKEN


cdef int steal(WorkerState *self) noexcept nogil:
    """Look through the groups read so far: the one run last, whose rows are prepared, then the oldest first. Taken is, too,
    what the log goes on with.

    A group is fresh until a search has ended after it was read: then the owners of its slices have had the time of a wait
    to come; of the one run last, that of a task. One crew has one memory, so it does not matter who reads.
    """
    cdef int32_t slot
    cdef int most = NOTHING
    cdef bint several = self.program.pool.crews > 1
    if self.ring:
        self.ring.searched = clock_ticks()
    while self.oldest < self.cursor and has_run(self.program, entry_group(self, self.oldest)):
        self.oldest += 1
    if self.last >= 0:
        most = run_stolen(self, self.last, False)
    for slot in range(self.oldest, self.cursor):
        if most == TAKEN or log_ready(self):
            return TAKEN
        most = max(most, run_stolen(self, entry_group(self, slot), several and slot >= self.searched))
    if most != TAKEN:
        self.searched = self.cursor
    return most


cdef void work(WorkerState *self) noexcept nogil:
    """Take part in a step until its log ends."""
    cdef ProgramState *program = self.program
    cdef uint64_t entry
    cdef int found
    cdef int64_t begin = clock_ticks() if self.ring else 0
    self.cursor = self.oldest = self.searched = self.idle_since = 0
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
        else:
            found = steal(self)
            if found != TAKEN:
                wait(self, found == NOTHING)
    if self.ring:
        record_idleness(self, clock_ticks())
    program.leave()
    if self.ring:
        record(self.ring, RECORD_JOIN, begin, clock_ticks(), -1, -1, <uint32_t>program.step.number)


include "steps.pxi"
