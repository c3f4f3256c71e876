# rms_norm: root mean square norm of each of `groups` runs of a row (a whole row, or its heads).
#
#   out[r, g, :] = x[r, g, :] * rsqrt(mean(x[r, g, :]^2) + eps) * weight     x: f32, out: f32 or bf16 [rows, groups, width]
#
# Zhang and Sennrich, 2019.
#
# Task = rows [rows * index / tasks, rows * (index + 1) / tasks).

cdef void rms_norm(const ellm_task *task) noexcept nogil:
    cdef const ellm_rms_norm *op = <const ellm_rms_norm *> task.args
    cdef const ellm_groups *source = <const ellm_groups *> &op.x
    cdef const ellm_groups_out *to = <const ellm_groups_out *> &op.out
    cdef int32_t begin = <int32_t> (task.rows * task.index // op.tasks)
    cdef int32_t end = <int32_t> (task.rows * (task.index + 1) // op.tasks), row
    cdef const float *weight = <const float *> op.weight
    cdef const float *x
    cdef void *out
    cdef int64_t group
    cdef float scale
    for row in range(begin, end):
        for group in range(op.groups):
            x = groups_at(task, source, row, group)
            out = groups_out_at(task, to, row, group, 0)
            scale = vector_rms_scale(x, op.eps, op.width)
            if op.out_bf16:
                vector_norm_to_bf16(x, weight, scale, <ellm_bf16 *> out, op.width)
            else:
                vector_norm(x, weight, scale, <float *> out, op.width)
        groups_pad(task, to, row, op.groups - 1, op.width)
