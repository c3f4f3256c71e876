# append: keys and values of a block, rounded to bf16, to their positions in the blocks of their sequences.
#
#   K[position, j, :] = k[r, j, :]          k: f32 [rows, kv_heads, head_dim]
#   V[position, j, :] = v[r, j, :]          v: f32 [rows, kv_heads, value_dim]; absent if values_in_keys
#
# task.h gives the layout of a head's keys and values. 1 task per KV head j.

cdef void append(const ellm_task *task) noexcept nogil:
    cdef const ellm_append *op = <const ellm_append *> task.args
    cdef int64_t head = task.index, position
    cdef char *block
    cdef int32_t row
    for row in range(task.rows):
        position = task.step.positions[task.row + row]
        block = cache_block(task.step, task.step.slots[task.row + row], position // ELLM_SPLIT, 0)
        position %= ELLM_SPLIT
        cache_store_key(
            <ellm_bf16 *> (block + op.keys + head * op.key_stride),
            position,
            <const float *> (task.section + op.k) + (row * op.kv_heads + head) * op.head_dim,
            op.head_dim,
        )
        if not op.values_in_keys:
            cache_store_value(
                <ellm_bf16 *> (block + op.values + head * op.value_stride),
                position,
                <const float *> (task.section + op.v) + (row * op.kv_heads + head) * op.value_dim,
                op.value_dim,
            )
