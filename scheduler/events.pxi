"""Events: they count signals, and publish groups once all have come."""


cdef inline void signal_event(WorkerState *self, int32_t number) noexcept nogil:
    """Count one signal. The count starts anew in each step, so one that was not met in a former step does no harm."""
    cdef Event *event = &self.program.events[number]
    cdef uint64_t seen = load_relaxed(&event.count), counted
    while True:
        counted = (seen if seen >> 32 == self.program.generation else self.program.generation << 32) + 1
        if compare_exchange(&event.count, &seen, counted):
            break
    if <uint32_t>counted == event.needed:
        self.queue[self.queued] = number
        self.queued += 1


cdef inline void signal_events_of(WorkerState *self, Group *group) noexcept nogil:
    cdef int32_t i
    for i in range(group.signals_begin, group.signals_end):
        signal_event(self, self.program.signals[i])


cdef inline uint32_t size_group(WorkerState *self, int32_t number) noexcept nogil:
    """Decide how many tasks a group has in this step. One without tasks completes at once, or is ignored."""
    cdef Group *group = &self.program.groups[number]
    if group.rows != ROWS_OF_EXPERT:
        group.deal = deal_of(self.program, group, group.count[0] * group.tiles)
    if group.deal.tasks == 0 and group.completes_empty:
        signal_events_of(self, group)
    return group.deal.tasks


cdef inline void append(ProgramState *program, uint64_t slot, int32_t number) noexcept nogil:
    store_published(&program.log[slot], program.generation << 32 | <uint64_t>(number + 1))


cdef int64_t publish(WorkerState *self, int32_t number) noexcept nogil:
    """Append a group to the log if it has tasks, and return how many."""
    cdef uint32_t tasks = size_group(self, number)
    if tasks:
        append(self.program, fetch_add(&self.program.tail, 1), number)
    return tasks


cdef inline int64_t row_tiles_of(const Group *group) noexcept nogil:
    return (group.count[0] + ELLM_EXPERT_ROWS - 1) // ELLM_EXPERT_ROWS


cdef void deal_experts(Group *groups, const int32_t *experts, bint together) noexcept nogil:
    """Deal out the tasks of one group each of all experts in a list, whose counts are rows."""
    cdef int64_t total = 0, before = 0, tasks, work
    cdef Group *group
    cdef int32_t i
    for i in range(1, experts[0] + 1):
        group = &groups[experts[i]]
        tasks = row_tiles_of(group) * group.tiles
        group.deal = Deal(<uint32_t>tasks, 0, <uint32_t>tasks)
        total += expert_work(group.count[0], row_tiles_of(group))
    if together:
        for i in range(1, experts[0] + 1):
            group = &groups[experts[i]]
            tasks, work = group.deal.tasks, expert_work(group.count[0], row_tiles_of(group))
            group.deal.before = <uint32_t>(before * tasks // work)
            group.deal.total = <uint32_t>((total * tasks + work - 1) // work)
            before += work


cdef int64_t wake_groups(WorkerState *self, const Wake *wake) noexcept nogil:
    """Publish the groups that a list in the arena names, and have their join wait for them; returns how many tasks.

    After a failure the list may be that of another step: nothing is published then.
    """
    cdef ProgramState *program = self.program
    cdef int32_t count = 0 if load_relaxed(&program.failure) else wake.list[0], i
    cdef int64_t tasks = 0
    cdef uint64_t ready = 0, slot
    cdef bint together
    if self.ring and wake.bytes:
        memcpy(wake.copy + (program.step.number & 1) * wake.bytes, wake.watched, wake.bytes)
    store_relaxed(&self.woken, self.woken + count)
    program.events[wake.join].needed = count
    if count == 0:
        self.queue[self.queued] = wake.join
        self.queued += 1
    else:
        together = deals_together(count, program.pool.node_of[1])
        deal_experts(program.groups + wake.first, wake.list, together)
        deal_experts(program.groups + wake.then, wake.list, together)
    for i in range(1, count + 1):
        tasks += size_group(self, wake.first + wake.list[i])
        ready += program.groups[wake.first + wake.list[i]].deal.tasks != 0
    slot = fetch_add(&program.tail, ready)  # all of them at once: every worker watches that part of the log
    for i in range(1, count + 1):
        if program.groups[wake.first + wake.list[i]].deal.tasks:
            append(program, slot, wake.first + wake.list[i])
            slot += 1
    return tasks


cdef int64_t fire_events(WorkerState *self) noexcept nogil:
    """Handle the events in the queue and those that they set off; returns how many tasks became ready."""
    cdef ProgramState *program = self.program
    cdef Event *event
    cdef int64_t tasks = 0
    cdef int32_t i, head = 0
    while head < self.queued:
        event = &program.events[self.queue[head]]
        for i in range(event.publishes_begin, event.publishes_end):
            tasks += publish(self, program.publishes[i])
        for i in range(event.triggers_begin, event.triggers_end):
            signal_event(self, program.triggers[i])
        if self.queue[head] == program.end:
            close_step(program)
        head += 1
    self.queued = 0
    return tasks


cdef void close_step(ProgramState *program) noexcept nogil:
    """Let no further worker join, and append the log entry that sends the others home."""
    fetch_or(&program.pool.state, CLOSED)
    store_published(&program.log[fetch_add(&program.tail, 1)], program.generation << 32 | LOG_END)
    wake(program.pool, program.pool.workers)
