# input_rows: what the caller gives of each row beside its token.
#
#   out[r, :] = input_rows[row + r, :]                     f32 [rows, width]
#
# 1 task.

cdef void input_rows(const ellm_task *task) noexcept nogil:
    cdef const ellm_input_rows *op = <const ellm_input_rows *> task.args
    memcpy(
        task.section + op.out,
        task.step.input_rows + task.row * op.width,
        task.rows * op.width * sizeof(float),
    )
