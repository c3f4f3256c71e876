# logits: step.logits[row] = bf16(norm(x)) . W^T (+ bias), rows being logit rows
#
#   x       f32 or bf16 [rows, k], the gathered rows of this logit block
#   weight  tiles [n_tiles][k_tiles]          step.logits  f32 [logit_rows, n]

cdef void logits(const ellm_task *task) noexcept nogil:
    cdef const ellm_logits *op = <const ellm_logits *> task.args
    cdef product p = multiply(task, op)
    cdef int64_t begin = ELLM_TILE_N * p.tile
    cdef int64_t end = min(op.n, begin + ELLM_TILE_N * p.tiles)
    cdef int64_t row
    for row in range(task.rows):
        memcpy(task.step.logits + (task.row + row) * op.n + begin, p.c + row * p.stride, (end - begin) * sizeof(float))
