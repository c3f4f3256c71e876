# expert_down: out = routed . W[expert]^T (+ bias[expert]) for the routed rows of one expert, task.block
#
#   begin   i32 [experts + 1]: what dispatch wrote
#   routed  a row for each routed position: what expert_gate_up wrote
#   weight  a packed weight [n_tiles][k_tiles] per expert, bank_stride bytes apart; bias likewise, bias_stride
#   out     f32 [routed, n]
#
# Task = row tile * ceil(n_tiles / task_tiles) + column task.

cdef void expert_down(const ellm_task *task) noexcept nogil:
    cdef const ellm_expert_down *op = <const ellm_expert_down *> task.args
    cdef const ellm_matmul *m = <const ellm_matmul *> task.args
    cdef expert_rows part = expert_part(task, m, <const int32_t *> (task.arena + op.begin))
    cdef product p = expert_multiply(task, m, down_panel(task, op, part), part, op.bank_stride, op.bias_stride)
    cdef int64_t begin = ELLM_TILE_N * p.tile
    cdef int64_t end = min(op.n, begin + ELLM_TILE_N * p.tiles)
    cdef int64_t row
    for row in range(part.rows):
        memcpy(
            <float *> (task.arena + op.out) + (part.first + row) * op.n + begin, p.c + row * p.stride,
            (end - begin) * sizeof(float),
        )


# f32 rows are the same panel for all tasks of a row tile.
cdef inline ellm_panel down_panel(const ellm_task *task, const ellm_expert_down *op, expert_rows part) noexcept nogil:
    cdef const ellm_matmul *m = <const ellm_matmul *> op
    cdef const char *routed = task.arena + op.routed
    if not m.activations:
        return panel_routed(task, m, routed, part.first)
    return panel_rows(task, m, part.tile, row_of(<char *> routed, part.first, op.x_stride, 0), part.rows)
