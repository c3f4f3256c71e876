# merge: the output of attend from the partials that it stored, merged in order of split (attend.pxi has the equations).
#
#   out[r, h, :] = o / l          f32 or bf16 [rows, heads * value_dim]
#
# Row r of a merge item has the partial of its i-th split at item.partial + r * item.splits + i.
# Task = merge item * head groups + head group, as in attend.

# One row and head: its partials, op.heads of a partial apart, to the row `out`. o is memory for a numerator.
cdef inline void merge_head(
    const ellm_merge *op, int64_t head, const float *part, int64_t splits, float *o, char *out
) noexcept nogil:
    cdef float max = -1e30, sum = 0
    cdef int64_t i, n = op.value_dim
    memset(o, 0, 4 * n)
    for i in range(splits):
        merge_part(o, &max, &sum, part, part[n], part[n + 1], n)
        part += op.heads * (n + 2)
    write_quotient(o, max, sum, <const float *> op.sinks, head, out, op.out_bf16, n)


cdef void merge(const ellm_task *task) noexcept nogil:
    cdef const ellm_merge *op = <const ellm_merge *> task.args
    cdef HeadGroup group = head_group(task.index, op.heads, op.kv_heads)
    cdef const ellm_merge_item *item = task.step.merges[op.window_class]
    cdef float *o = <float *> scratch_memory(task)
    cdef int64_t n = op.value_dim, row, head
    cdef const float *part
    cdef char *out
    item += task.step.merge_begin[op.window_class][task.block] + group.item
    for row in range(item.rows):
        out = row_of(task.section + op.out, item.row - task.row + row, op.out_stride, op.out_bf16)
        part = task.step.partials + (item.partial + row * item.splits) * op.heads * (n + 2)
        for head in range(group.first, group.first + group.size):
            merge_head(op, head, part + head * (n + 2), item.splits, o, out)
        if group.first + group.size == op.heads and op.out_bf16:
            memset(<ellm_bf16 *> out + op.heads * n, 0, 2 * (op.out_stride - op.heads * n))
