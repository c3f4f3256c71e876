# expert_down: out = routed . W[expert]^T (+ bias[expert]) for the routed rows of one expert, task.block
#
#   routed  f32 or bf16 [routed, x_stride]
#   weight  a packed weight [n_tiles][k_tiles] per expert, bank_stride bytes apart; bias likewise, bias_stride
#   out     f32 [routed, n]
#
# Task = row tile * ceil(n_tiles / task_tiles) + column task.

cdef void expert_down(const ellm_task *task) noexcept nogil:
    cdef const ellm_expert_down *op = <const ellm_expert_down *> task.args
    cdef const ellm_matmul *m = <const ellm_matmul *> task.args
    cdef expert_rows part = expert_part(task, m, <const int32_t *> (task.arena + op.begin))
    cdef const char *x = row_of(task.arena + op.routed, part.first, op.x_stride, op.x_bf16)
    cdef product p = multiply_by(
        task, m, panel_of(task, m, part.tile, x, part.rows), part.rows, part.column_task,
        <const char *> op.weight + task.block * op.bank_stride, expert_bias(task, m, op.bias_stride),
    )
    cdef int64_t begin = ELLM_TILE_N * p.tile
    cdef int64_t end = min(op.n, begin + ELLM_TILE_N * p.tiles)
    cdef int64_t row
    for row in range(part.rows):
        memcpy(
            <float *> (task.arena + op.out) + (part.first + row) * op.n + begin, p.c + row * p.stride,
            (end - begin) * sizeof(float),
        )
