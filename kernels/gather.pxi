# gather: the rows that want logits, copied out of the sections of their blocks.
#
#   out[r, :] = x[logit_row[row + r], :]          f32 [rows, width]
#
# The one kernel that reads the sections of other blocks. 1 task.

cdef void gather(const ellm_task *task) noexcept nogil:
    cdef const ellm_gather *op = <const ellm_gather *> task.args
    cdef float *out = <float *> (task.section + op.out)
    cdef const char *section
    cdef int32_t row, source
    for row in range(task.rows):
        source = task.step.logit_row[task.row + row]
        section = task.arena + source // task.row_block * task.section_bytes
        memcpy(
            out + row * op.width,
            <const float *> (section + op.x) + source % task.row_block * op.width,
            op.width * sizeof(float),
        )
