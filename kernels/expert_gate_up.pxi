# expert_gate_up: out = activation(gate, up) for the routed rows of one expert, task.block; columns as in gate_up
#
#   begin   i32 [experts + 1]: what dispatch wrote
#   routed  a row of a panel for each routed position: what scatter wrote
#   weight  a packed weight [n_tiles][k_tiles] per expert, bank_stride bytes apart; bias likewise, bias_stride
#   out     likewise rows of a bf16 panel, n long, of which the task that owns the last column zeroes what pads n to whole
#           tiles; or f32 [.., n]
#
# activation 0: silu(gate) * up. 1: (u + 1) * g * sigmoid(alpha * g) with g = min(gate, limit), u = clamp(up, -limit, limit).
# Task = row tile * ceil(n_tiles / task_tiles) + column task.

cdef enum:
    GATED = 64  # columns that are rounded at a time, by whole vectors

cdef struct expert_rows:
    int64_t tile
    int64_t first        # routed position
    int64_t rows
    int64_t column_task


# The rows and columns of a task of an expert.
cdef inline expert_rows expert_part(
    const ellm_task *task, const ellm_matmul *m, const int32_t *begin
) noexcept nogil:
    cdef int64_t column_tasks = (m.n_tiles + m.task_tiles - 1) // m.task_tiles
    cdef expert_rows part
    part.column_task = task.index % column_tasks
    part.tile = task.index // column_tasks
    part.first = begin[task.block] + part.tile * ELLM_EXPERT_ROWS
    part.rows = min(<int64_t> ELLM_EXPERT_ROWS, begin[task.block + 1] - part.first)
    return part


# The product of a task of an expert, whose weights and biases are bank_stride and bias_stride bytes apart.
cdef inline product expert_multiply(
    const ellm_task *task, const ellm_matmul *m, ellm_panel x, expert_rows part, int64_t bank_stride, int64_t bias_stride,
) noexcept nogil:
    cdef const char *bias = <const char *> m.bias
    if bias != NULL:
        bias += task.block * bias_stride
    return multiply_by(
        task, m, x, part.rows, part.column_task, <const char *> m.weight + task.block * bank_stride, <const float *> bias
    )


cdef void expert_gate_up(const ellm_task *task) noexcept nogil:
    cdef const ellm_expert_gate_up *op = <const ellm_expert_gate_up *> task.args
    cdef const ellm_matmul *m = <const ellm_matmul *> task.args
    cdef expert_rows part = expert_part(task, m, <const int32_t *> (task.arena + op.begin))
    cdef ellm_panel x = panel_routed(task, m, task.arena + op.routed, part.first)
    cdef product p = expert_multiply(task, m, x, part, op.bank_stride, op.bias_stride)
    cdef int64_t begin = ELLM_TILE_N // 2 * p.tile, row
    cdef int64_t end = min(op.n, begin + ELLM_TILE_N // 2 * p.tiles)
    cdef int64_t width = ELLM_TILE_K * k_tiles_of(op.n), stride = panel_stride(k_tiles_of(op.n)) if op.out_bf16 else op.n
    cdef char *out
    for row in range(part.rows):
        out = row_of(task.arena + op.out, part.first + row, stride, op.out_bf16)
        gate_row(op, p.c + row * p.stride, begin, end, out)
        if end == op.n and op.out_bf16:
            memset(<ellm_bf16 *> out + end, 0, (width - end) * sizeof(ellm_bf16))


# Columns [begin, end) of a row, from its product c, some at a time, so that they are rounded by whole vectors.
cdef inline void gate_row(
    const ellm_expert_gate_up *op, const float *c, int64_t begin, int64_t end, char *out
) noexcept nogil:
    cdef float gated[GATED]
    cdef float *part
    cdef int64_t column = begin, i, n
    while column < end:
        n = min(<int64_t> GATED, end - column)
        for i in range(n_tiles_of(n)):
            part = gated + ELLM_TILE_N * i
            if op.activation == 0:
                vector_silu_mul(c, c + ELLM_TILE_N, part, ELLM_TILE_N)
            else:
                vector_clamped_glu(c, c + ELLM_TILE_N, <float> op.limit, <float> op.alpha, part, ELLM_TILE_N)
            c += 2 * ELLM_TILE_N
        vector_store(gated, out, op.out_bf16, column, n)
        column += n
