"""Steps: how they begin, how workers join and leave them, and how one follows another without its caller.

A step that is asked to follow is planned while another one runs. The last worker that leaves that one gives it the
tokens that were drawn and opens it, so that no worker waits for the caller, who hears of the end later.
"""


cdef bint join_step(PoolState *pool, Berth *berth) noexcept nogil:
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
        elif clock_ns() - since < pool.linger_ns:
            spin_pause()
        else:
            seen = load_word(&berth.signal)
            add_word(&berth.sleepers, 1)
            if load_ordered(&pool.state) & CLOSED and not load_word(&pool.stop):
                sleep(berth, seen)
            add_word(&berth.sleepers, <uint32_t>-1)


cdef void leave_step(PoolState *pool) noexcept nogil:
    """The last worker to leave a closed step begins the one that is to follow, and tells the caller."""
    cdef uint64_t before = fetch_sub(&pool.state, 1)
    cdef uint32_t number = <uint32_t>(before >> 32)
    cdef ProgramState *program
    if <uint32_t>before != <uint32_t>(CLOSED + 1):
        return
    pool.ended_ns[number & 1] = clock_ns()
    program = successor(pool)
    if program != NULL and take_drawn(program) and lay_out(program):
        begin(program, number)
    else:
        store_word(&pool.finished, number)
    futex_wake(&pool.finished, 1)


cdef void *worker_main(void *argument) noexcept nogil:
    """A worker's thread: steps, one after the other, until the pool stops."""
    cdef Thread *thread = <Thread *>argument
    cdef Berth *berth = &thread.pool.berths[thread.pool.crew_of[thread.index]]
    while join_step(thread.pool, berth):
        work(&thread.pool.program.workers[thread.index])
        leave_step(thread.pool)
    return NULL


cdef void forget(ProgramState *program) noexcept nogil:
    """Wipe the words that carry a generation, when generations start anew: none ever comes twice."""
    cdef int32_t i
    memset(program.log, 0, (program.group_count + 1) * sizeof(uint64_t))
    memset(program.tallies, 0, program.group_count * program.tallies_of_group * sizeof(Tally))
    for i in range(program.pool.workers):
        memset(program.workers[i].slices, 0, program.group_count * sizeof(uint64_t))
    for i in range(program.event_count):
        program.events[i].count = 0


cdef void size_events(ProgramState *program) noexcept nogil:
    """Have dynamic events wait for the blocks that this step has."""
    cdef const Dynamic *dynamic
    cdef int32_t i, block, active
    for i in range(program.dynamic_count):
        dynamic = &program.dynamic[i]
        active = 0
        for block in range(program.blocks):
            active += program.counts[dynamic.kind * program.blocks + block] != 0
        program.events[dynamic.event].needed = dynamic.needed + active


cdef bint lay_out(ProgramState *program) noexcept nogil:
    """Make the plan the program's step and publish its roots. False if none of them has a task."""
    cdef WorkerState *caller = &program.workers[program.pool.workers]
    cdef uint64_t era
    cdef int64_t tasks = 0
    cdef int32_t i
    program.step = program.plan.step
    memcpy(program.counts, program.plan.counts, program.kinds * program.blocks * sizeof(int32_t))
    size_events(program)
    era = <uint64_t>program.step.number // GENERATIONS
    program.generation = 1 + <uint64_t>program.step.number % GENERATIONS
    if era != program.era:
        program.era = era
        forget(program)
    program.tail = program.failure = 0
    program.row_blocks = (program.step.rows + program.row_block - 1) // program.row_block
    for i in range(program.root_count):
        if program.groups[program.roots[i]].count[0]:
            tasks += publish(caller, program.roots[i])
    return tasks > 0


cdef void begin(ProgramState *program, uint32_t before) noexcept nogil:
    """Let the workers in to what was laid out, and say first that the round before has finished and another has begun.

    The caller may look at once, and the workers may have ended the new round before this returns.
    """
    cdef PoolState *pool = program.pool
    pool.program = program
    store_relaxed(&pool.successor, NOBODY)
    store_word(&pool.begun, before + 1)
    store_word(&pool.finished, before)
    store_ordered(&pool.state, (load_relaxed(&pool.state) & ~(ROUND - 1)) + ROUND)
    wake(pool, pool.workers)


cdef bint open_step(ProgramState *program) noexcept nogil:
    """Begin the step that is planned, while none runs. False, and nothing is begun, if no root has a task."""
    if not lay_out(program):
        return False
    begin(program, load_word(&program.pool.begun))
    return True


cdef void await_step(PoolState *pool, uint32_t number) noexcept nogil:
    """Sleep until every worker that joined the round of that number has left it."""
    cdef uint32_t finished
    while True:
        finished = load_word(&pool.finished)
        if <int32_t>(finished - number) >= 0:
            return
        futex_wait(&pool.finished, finished)


cdef bint ask_to_follow(ProgramState *program) noexcept nogil:
    """Have the step that is planned follow the one that runs. False if that has ended."""
    cdef uint64_t nobody = NOBODY
    return compare_exchange(&program.pool.successor, &nobody, <uint64_t>program)


cdef void hold(PoolState *pool) noexcept nogil:
    """Have no step follow the one that runs, if none was begun yet."""
    cdef uint64_t asked = load_relaxed(&pool.successor)
    if asked != NOBODY and asked != TOO_LATE:
        compare_exchange(&pool.successor, &asked, NOBODY)


cdef ProgramState *successor(PoolState *pool) noexcept nogil:
    """The program of which a step is to follow, or NULL; from now on it is too late to ask, or to hold it."""
    cdef uint64_t asked = NOBODY
    while not compare_exchange(&pool.successor, &asked, TOO_LATE):
        pass
    return NULL if asked == NOBODY else <ProgramState *>asked


cdef bint take_drawn(ProgramState *program) noexcept nogil:
    """Give each row of the plan the token that the row of its number has drawn.

    False if there is none as a kernel failed, or if one of them ends its sequence.
    """
    cdef const Plan *plan = &program.plan
    cdef const int32_t *drawn = program.step.sampled
    cdef const ellm_sampling *how
    cdef int64_t row, i
    if program.failure:
        return False
    for row in range(plan.step.rows):
        for i in range(plan.ends_each):
            if plan.ends[row * plan.ends_each + i] == drawn[row]:
                return False
    for row in range(plan.step.rows):
        (<int32_t *>plan.step.tokens)[row] = drawn[row]
        how = &plan.step.sampling[row]
        (<int32_t *>how.history)[how.history_len - 1] = drawn[row]
    return True


cdef bint follow(ProgramState *program) noexcept nogil:
    """Begin the step that is planned behind one that has ended before it was asked to. False as `take_drawn` says."""
    return take_drawn(program) and open_step(program)


cdef void stop_workers(PoolState *pool) noexcept nogil:
    """Make every worker's thread end, now or after the open step."""
    store_word(&pool.stop, 1)
    wake(pool, pool.workers)
