# scatter: each step row goes to its routed positions, rounded as the experts' weights take it, once for all of them
#
#   x         f32 or bf16 [rows, k] in the sections, x_stride apart
#   ids       i32 [chunk, top_k]; begin, position: what dispatch wrote
#   out       a row of a panel for each routed position (panel.h), in the form for as many rows as are in its row tile
#
# Task = step rows [index * ELLM_PIECE, + ELLM_PIECE).

cdef void scatter(const ellm_task *task) noexcept nogil:
    cdef const ellm_scatter *op = <const ellm_scatter *> task.args
    cdef const int32_t *begin = <const int32_t *> (task.arena + op.begin)
    cdef const int32_t *ids = <const int32_t *> (task.arena + op.ids)
    cdef const int32_t *position = <const int32_t *> (task.arena + op.position)
    cdef int64_t first = <int64_t> task.index * ELLM_PIECE, row, i
    cdef ellm_matmul m = scatter_product(op)
    cdef const char *x
    cdef char *made[ACTIVATION_FORMS]  # where the row lies in each form
    cdef char *out
    cdef int form
    for row in range(first, min(first + ELLM_PIECE, task.step.rows)):
        x = task.arena + row // task.row_block * task.section_bytes
        x += op.x + row % task.row_block * op.x_stride * <int64_t> (sizeof(ellm_bf16) if op.x_bf16 else sizeof(float))
        memset(made, 0, sizeof(made))
        for i in range(row * op.top_k, (row + 1) * op.top_k):
            out = task.arena + op.out + position[i] * panel_bytes(&m)
            form = panel_form(&m, tile_rows_at(begin, ids[i], position[i]))
            if made[form] != NULL:
                memcpy(out, made[form], panel_row_bytes(&m))
            else:
                panel_row(&m, x, form, out)
                made[form] = out


# What panels depend on, of the product that reads the rows.
cdef inline ellm_matmul scatter_product(const ellm_scatter *op) noexcept nogil:
    cdef ellm_matmul m
    memset(&m, 0, sizeof(m))
    m.x_bf16, m.k, m.k_tiles, m.format, m.activations = op.x_bf16, op.k, op.k_tiles, op.format, op.activations
    return m


# How many rows the row tile of an expert has that holds a routed position.
cdef inline int64_t tile_rows_at(const int32_t *begin, int64_t expert, int64_t position) noexcept nogil:
    cdef int64_t first = position - (position - begin[expert]) % ELLM_EXPERT_ROWS
    return min(<int64_t> ELLM_EXPERT_ROWS, begin[expert + 1] - first)
