# combine: the experts' outputs for each row, weighted, and added to the residual.
#
#   out[r] = residual[r] + sum over j, ascending, of weights[row + r, j] * y[position[row + r, j]]      f32 [rows, n]
#
# Task = columns [index * task_columns, + task_columns). residual may be out, or absent.

cdef void combine(const ellm_task *task) noexcept nogil:
    cdef const ellm_combine *op = <const ellm_combine *> task.args
    cdef const float *weights = <const float *> (task.arena + op.weights) + task.row * op.top_k
    cdef const int32_t *position = <const int32_t *> (task.arena + op.position) + task.row * op.top_k
    cdef const float *y = <const float *> (task.arena + op.y)
    cdef int64_t first = task.index * op.task_columns, n = min(op.task_columns, op.n - first), row, i
    cdef float *out
    for row in range(task.rows):
        out = <float *> (task.section + op.out) + row * op.n + first
        if op.residual < 0:
            memset(out, 0, n * sizeof(float))
        elif op.residual != op.out:
            memcpy(out, <const float *> (task.section + op.residual) + row * op.n + first, n * sizeof(float))
        for i in range(row * op.top_k, (row + 1) * op.top_k):
            vector_add_scaled(y + position[i] * op.n + first, weights[i], out, n)
