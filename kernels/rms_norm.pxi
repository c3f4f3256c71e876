# rms_norm: root mean square norm of each of `groups` runs of a row (a whole row, or its heads).
#
#   out[r, g, :] = x[r, g, :] * rsqrt(mean(x[r, g, :]^2) + eps) * weight          x: f32 [rows, groups, width]
#
# out is f32 or bf16 with row stride `out_stride`; what is left of a row is zeroed. Zhang and Sennrich, 2019.
#
# Task = rows [rows * index / tasks, rows * (index + 1) / tasks).

cdef void rms_norm(const ellm_task *task) noexcept nogil:
    cdef const ellm_rms_norm *op = <const ellm_rms_norm *> task.args
    cdef int32_t begin = <int32_t> (task.rows * task.index // op.tasks)
    cdef int32_t end = <int32_t> (task.rows * (task.index + 1) // op.tasks), row
    cdef const float *x = <const float *> (task.section + op.x) + begin * op.groups * op.width
    cdef const float *weight = <const float *> op.weight
    cdef int64_t n = op.width, group, size = sizeof(ellm_bf16) if op.out_bf16 else sizeof(float)
    cdef char *out = task.section + op.out + begin * op.out_stride * size
    cdef float scale
    for row in range(begin, end):
        for group in range(op.groups):
            scale = vector_rms_scale(x, op.eps, n)
            if op.out_bf16:
                vector_norm_to_bf16(x, weight, scale, <ellm_bf16 *> out + group * n, n)
            else:
                vector_norm(x, weight, scale, <float *> out + group * n, n)
            x += n
        memset(out + op.groups * n * size, 0, (op.out_stride - op.groups * n) * size)
        out += op.out_stride * size
