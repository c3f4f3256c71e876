"""Slices: which tasks of a group a worker has left, one word each."""


cdef inline uint64_t slice_word(uint64_t generation, uint64_t begin, uint64_t end) noexcept nogil:
    return generation << (2 * TASK_BITS) | begin << TASK_BITS | end


cdef inline Deal deal_of(ProgramState *program, const Group *group, uint32_t tasks) noexcept nogil:
    """How so many tasks of a group are dealt out, unless they are those of an expert among many."""
    if group.rows == ROWS_OF_BLOCK:
        return Deal(tasks, group.block * tasks, program.row_blocks * tasks)
    return Deal(tasks, 0, tasks)


cdef inline void home_tasks(
    PoolState *pool, Deal deal, int32_t first, int32_t last, int64_t *begin, int64_t *end
) noexcept nogil:
    """The tasks that are at home with workers [first, last) of a node."""
    cdef const int32_t *node = &pool.node_of[2 * first]
    begin[0] = home_begin(deal.tasks, deal.before, deal.total, first, pool.workers, node[0], node[1])
    end[0] = home_begin(deal.tasks, deal.before, deal.total, last, pool.workers, node[0], node[1])


cdef inline void slice_range(
    uint64_t word, ProgramState *program, Group *group, int32_t owner, uint64_t *begin, uint64_t *end
) noexcept nogil:
    """The tasks left in a slice; its home slice if nobody has touched it since the group was published."""
    if word >> (2 * TASK_BITS) == program.generation:
        begin[0] = word >> TASK_BITS & TASKS
        end[0] = word & TASKS
    else:
        home_tasks(program.pool, group.deal, owner, owner + 1, <int64_t *>begin, <int64_t *>end)


cdef inline bint claim(WorkerState *self, Group *group, uint64_t *slice, int32_t *task) noexcept nogil:
    """Take the first task of one's own slice. False: it is dry, and marked as of this step."""
    cdef uint64_t begin, end, word = load_relaxed(slice)
    while True:
        slice_range(word, self.program, group, self.index, &begin, &end)
        task[0] = <int32_t>begin
        if begin == end:
            if word == slice_word(self.program.generation, begin, end):
                return False
            if compare_exchange(slice, &word, slice_word(self.program.generation, begin, end)):
                return False
        elif compare_exchange(slice, &word, slice_word(self.program.generation, begin + 1, end)):
            return True


cdef int take_half(WorkerState *self, int32_t number, int32_t victim, bint fresh) noexcept nogil:
    """Move the back half of what is left in a victim's slice into one's own, which is dry: nobody else writes that.

    Of a fresh group, a slice whose owner has not come yet is left to it: what it reads is near to it.
    """
    cdef ProgramState *program = self.program
    cdef uint64_t *slice = &program.workers[victim].slices[number]
    cdef uint64_t begin, end, middle, word = load_relaxed(slice)
    while True:
        slice_range(word, program, &program.groups[number], victim, &begin, &end)
        if begin == end:
            return NOTHING
        if fresh and word >> (2 * TASK_BITS) != program.generation:
            return LEFT
        middle = begin + (end - begin) // 2
        if compare_exchange(slice, &word, slice_word(program.generation, begin, middle)):
            store_relaxed(&self.slices[number], slice_word(program.generation, middle, end))
            return TAKEN
