# dispatch: sorts the routed rows of the step by expert; a counting sort, stable by row and then choice.
#
#   begin[e] <= position[r, j] < begin[e + 1] for e = ids[r, j]
#   rows_of[e] = begin[e + 1] - begin[e]
#   list = n, then the n experts that have rows, ascending
#
# All are i32; task.h gives the shapes. 1 task, O(rows * top_k + experts).

cdef void dispatch(const ellm_task *task) noexcept nogil:
    cdef const ellm_dispatch *op = <const ellm_dispatch *> task.args
    cdef const int32_t *ids = <const int32_t *> (task.arena + op.ids)
    cdef int32_t *begin = <int32_t *> (task.arena + op.begin)
    cdef int32_t *position = <int32_t *> (task.arena + op.position)
    cdef int32_t *rows_of = <int32_t *> (task.arena + op.rows_of)
    cdef int32_t *next = rows_of  # where the expert's next row goes, until the numbers of rows take its place
    cdef int32_t *list = <int32_t *> (task.arena + op.list)
    cdef int64_t i, e, routed = task.step.rows * op.top_k
    memset(begin, 0, (op.experts + 1) * sizeof(int32_t))
    for i in range(routed):
        begin[ids[i] + 1] += 1
    for e in range(op.experts):
        begin[e + 1] += begin[e]
        next[e] = begin[e]
    for i in range(routed):
        position[i] = next[ids[i]]
        next[ids[i]] += 1
    list[0] = 0
    for e in range(op.experts):
        rows_of[e] = begin[e + 1] - begin[e]
        if rows_of[e]:
            list[0] += 1
            list[list[0]] = <int32_t> e
