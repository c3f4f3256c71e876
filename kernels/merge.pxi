# merge: the output of attend from the partials that it stored, merged in order of split (attend.pxi has the equations).
#
#   out[r, h, :] = o / l          bf16 [rows, heads * head_dim]
#
# Row r of a merge item has the partial of its i-th split at item.partial + r * item.splits + i.
# Task = merge item * kv_heads + KV head.

# One row and head: its first partial, the floats from one to the next, and memory for a numerator.
cdef inline void merge_head(
    const float *part, int64_t stride, int64_t splits, float *o, ellm_bf16 *out, int64_t n
) noexcept nogil:
    cdef float max = -1e30, sum = 0
    cdef int64_t i
    memset(o, 0, 4 * n)
    for i in range(splits):
        merge_part(o, &max, &sum, part, part[n], part[n + 1], n)
        part += stride
    write_quotient(o, sum, out, n)


cdef void merge(const ellm_task *task) noexcept nogil:
    cdef const ellm_merge *op = <const ellm_merge *> task.args
    cdef int64_t group = op.heads // op.kv_heads, kv_head = task.index % op.kv_heads, n = op.value_dim, row, head
    cdef const ellm_merge_item *item = task.step.merges[op.window_class]
    cdef float *o = <float *> scratch_memory(task)
    cdef const float *part
    cdef ellm_bf16 *out
    item += task.step.merge_begin[op.window_class][task.block] + task.index // op.kv_heads
    for row in range(item.rows):
        out = <ellm_bf16 *> (task.section + op.out) + (item.row - task.row + row) * op.out_stride
        part = task.step.partials + (item.partial + row * item.splits) * op.heads * (n + 2)
        for head in range(kv_head * group, (kv_head + 1) * group):
            merge_head(part + head * (n + 2), op.heads * (n + 2), item.splits, o, out + head * n, n)
        if kv_head + 1 == op.kv_heads:
            memset(out + op.heads * n, 0, 2 * (op.out_stride - op.heads * n))
