# copy: columns of a row's groups (heads) to other columns, for slices and concatenations.
#
#   out[r, g, out_first + i] = x[r, g, x_first + i],  i < width          x: f32, out: f32 or bf16
#
# Rows and groups have strides of their own. 1 task.

cdef void copy(const ellm_task *task) noexcept nogil:
    cdef const ellm_copy *op = <const ellm_copy *> task.args
    cdef int64_t group, at, row, last = (op.groups - 1) * op.out_group_stride + op.out_first + op.width
    cdef ellm_bf16 *rounded = <ellm_bf16 *> (task.section + op.out)
    cdef const float *x
    for row in range(task.rows):
        for group in range(op.groups):
            x = <const float *> (task.section + op.x) + row * op.x_stride + group * op.x_group_stride + op.x_first
            at = row * op.out_stride + group * op.out_group_stride + op.out_first
            if op.out_bf16:
                vector_to_bf16(x, rounded + at, op.width)
            else:
                memcpy(<float *> (task.section + op.out) + at, x, op.width * sizeof(float))
        if op.out_bf16:
            memset(rounded + row * op.out_stride + last, 0, op.pad * sizeof(ellm_bf16))
