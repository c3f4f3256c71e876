# copy: groups (heads) of a row's columns to other columns, for slices and concatenations.
#
#   out[r, g, i] = x[r, g, i],  i < width                    x: f32, out: f32 or bf16 [rows, groups, width]
#
# Task = groups [index * task_groups, + task_groups).

cdef void copy(const ellm_task *task) noexcept nogil:
    cdef const ellm_copy *op = <const ellm_copy *> task.args
    cdef const ellm_groups *source = <const ellm_groups *> &op.x
    cdef const ellm_groups_out *out = <const ellm_groups_out *> &op.out
    cdef int64_t first = task.index * op.task_groups, group
    cdef int64_t end = min(op.groups, first + op.task_groups)
    cdef int32_t row
    for row in range(task.rows):
        for group in range(first, end):
            groups_store(task, out, row, group, 0, groups_at(task, source, row, group), op.width)
        if end == op.groups:
            groups_pad(task, out, row, end - 1, op.width)
