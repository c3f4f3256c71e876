# expert_gate_up: out = activation(gate, up) for the routed rows of one expert, task.block; columns as in gate_up
#
#   x       f32 or bf16 [rows, k] in the sections: routed position p takes step row rows[p]
#   begin   i32 [experts + 1], rows  i32 [routed]: what dispatch wrote
#   weight  a packed weight [n_tiles][k_tiles] per expert, bank_stride bytes apart; bias likewise, bias_stride
#   out     bf16 [routed, out_stride]; the task that owns the last column zeroes the pad [n, out_stride)
#
# activation 0: silu(gate) * up. 1: (u + 1) * g * sigmoid(alpha * g) with g = min(gate, limit), u = clamp(up, -limit, limit).
# Task = row tile * ceil(n_tiles / task_tiles) + column task.

cdef struct expert_rows:
    int64_t tile         # number of the row tile
    int64_t first        # its first routed position
    int64_t rows
    int64_t column_task


# The rows and columns of a task of an expert.
cdef inline expert_rows expert_part(
    const ellm_task *task, const ellm_matmul *m, const int32_t *begin
) noexcept nogil:
    cdef int64_t column_tasks = (m.n_tiles + m.task_tiles - 1) // m.task_tiles
    cdef expert_rows part
    part.tile = task.index // column_tasks
    part.column_task = task.index % column_tasks
    part.first = begin[task.block] + part.tile * task.row_block
    part.rows = min(<int64_t> task.row_block, begin[task.block + 1] - part.first)
    return part


# The bias of this task's expert, or NULL.
cdef inline const float *expert_bias(const ellm_task *task, const ellm_matmul *m, int64_t stride) noexcept nogil:
    if m.bias == NULL:
        return NULL
    return <const float *> (<const char *> m.bias + task.block * stride)


cdef void expert_gate_up(const ellm_task *task) noexcept nogil:
    cdef const ellm_expert_gate_up *op = <const ellm_expert_gate_up *> task.args
    cdef const ellm_matmul *m = <const ellm_matmul *> task.args
    cdef expert_rows part = expert_part(task, m, <const int32_t *> (task.arena + op.begin))
    cdef const int32_t *step_rows = <const int32_t *> (task.arena + op.rows) + part.first
    cdef product p = multiply_by(
        task, m, panel_gather(task, m, part.tile, step_rows, part.rows), part.rows, part.column_task,
        <const char *> op.weight + task.block * op.bank_stride, expert_bias(task, m, op.bias_stride),
    )
    cdef int64_t begin = ELLM_TILE_N // 2 * p.tile
    cdef int64_t end = min(op.n, begin + ELLM_TILE_N // 2 * p.tiles)
    cdef int64_t row, pair, column
    cdef float gated[ELLM_TILE_N]
    cdef const float *c
    cdef char *out
    for row in range(part.rows):
        out = row_of(task.arena + op.out, part.first + row, op.out_stride, op.out_bf16)
        c = p.c + row * p.stride
        for pair in range(p.tiles // 2):
            column = begin + ELLM_TILE_N * pair
            if op.activation == 0:
                vector_silu_mul(c, c + ELLM_TILE_N, gated, ELLM_TILE_N)
            else:
                vector_clamped_glu(c, c + ELLM_TILE_N, <float> op.limit, <float> op.alpha, gated, ELLM_TILE_N)
            vector_store(gated, out, op.out_bf16, column, min(<int64_t> ELLM_TILE_N, end - column))
            c += 2 * ELLM_TILE_N
        if end == op.n and op.out_bf16:
            memset(<ellm_bf16 *> out + end, 0, (op.out_stride - op.n) * sizeof(ellm_bf16))
