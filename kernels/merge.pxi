# merge: the output of attend from the partials that it stored (attend.pxi has the equations).
#
#   out[r, h, :] = o / l          f32 or bf16 [rows, heads * value_dim]
#
# The units of a span are merged in order, and the spans, as attend merges them where it stores none.
# Task = merge item.

# One row and head: its units, one after the other, to the row `out`. o is memory for two numerators.
cdef inline void merge_head(
    const ellm_merge *op, const ellm_merge_item *item, int64_t head, const float *part, float *o, char *out
) noexcept nogil:
    cdef float max = -1e30, sum = 0, span_max, span_sum
    cdef int64_t i = 0, end = item.first_units, n = op.value_dim
    memset(o, 0, 4 * n)
    while i < item.units:
        if end - i == 1:
            merge_parts(o, &max, &sum, part, part + n, part + n + 1, 1, 0, n)
            part += n + 2
        else:
            memset(o + n, 0, 4 * n)
            span_max, span_sum = -1e30, 0
            for i in range(i, min(end, item.units)):
                merge_parts(o + n, &span_max, &span_sum, part, part + n, part + n + 1, 1, 0, n)
                part += n + 2
            merge_parts(o, &max, &sum, o + n, &span_max, &span_sum, 1, 0, n)
        i = end
        end += item.span_units
    write_quotient(o, max, sum, <const float *> op.sinks, head, out, op.out_bf16, n)


cdef void merge(const ellm_task *task) noexcept nogil:
    cdef const ellm_merge *op = <const ellm_merge *> task.args
    cdef const ellm_merge_item *item = task.step.merges[op.window_class]
    cdef float *o = <float *> scratch_memory(task)
    cdef int64_t n = op.value_dim, row, head
    cdef const float *part
    cdef Part heads
    cdef char *out
    item += task.step.merge_begin[op.window_class][task.block] + task.index
    heads = part_of(op.heads, item.head_part, item.head_parts)
    for row in range(item.rows):
        out = row_of(task.section + op.out, item.row - task.row + row, op.out_stride, op.out_bf16)
        for head in range(heads.first, heads.first + heads.size):
            part = task.step.partials + ((item.partial + row * item.units) * op.heads + head * item.units) * (n + 2)
            merge_head(op, item, head, part, o, out)
        if heads.size and heads.first + heads.size == op.heads and op.out_bf16:
            memset(<ellm_bf16 *> out + op.heads * n, 0, 2 * (op.out_stride - op.heads * n))
