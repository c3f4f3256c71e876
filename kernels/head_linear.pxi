# head_linear: out[r, h] = bf16(x[r, h]) . W[h]^T, each head by a packed weight of its own
#
#   x       f32 or bf16 [rows, heads, k]: rows x_stride, heads x_group_stride apart
#   weight  heads packed weights [n_tiles][k_tiles], bank_stride bytes apart
#   out     f32 or bf16 [rows, heads, n]: rows out_stride, heads out_group_stride apart. The task that owns the last
#           column of the last head zeroes `pad` elements after it
#
# Task = head * ceil(n_tiles / task_tiles) + column task.

cdef void head_linear(const ellm_task *task) noexcept nogil:
    cdef const ellm_head_linear *op = <const ellm_head_linear *> task.args
    cdef const ellm_matmul *m = <const ellm_matmul *> task.args
    cdef const ellm_groups_out *out = <const ellm_groups_out *> &op.out
    cdef int64_t column_tasks = (op.n_tiles + op.task_tiles - 1) // op.task_tiles
    cdef int64_t head = task.index // column_tasks, row
    cdef product p = multiply_by(
        task, m, head_panel(task, op, head), task.rows, task.index % column_tasks,
        <const char *> op.weight + head * op.bank_stride, NULL,
    )
    cdef int64_t begin = ELLM_TILE_N * p.tile
    cdef int64_t width = min(op.n, begin + ELLM_TILE_N * p.tiles) - begin
    for row in range(task.rows):
        groups_store(task, out, row, head, begin, p.c + row * p.stride, width)
        if head + 1 == op.heads and begin + width == op.n:
            groups_pad(task, out, row, head, op.n)


# The A operand of a head: its rows in place if they need neither rounding nor padding.
cdef inline ellm_panel head_panel(const ellm_task *task, const ellm_head_linear *op, int64_t head) noexcept nogil:
    cdef const ellm_matmul *m = <const ellm_matmul *> op
    cdef const char *x = task.section + op.x
    x += head * op.x_group_stride * <int64_t> (sizeof(ellm_bf16) if op.x_bf16 else sizeof(float))
    if op.x_bf16 and op.k == ELLM_TILE_K * op.k_tiles and not op.activations:
        return panel_in_place(task, m, x)
    return panel_rows(task, m, head, x, task.rows)
