# append: keys and values of a block to their positions in the blocks of their sequences, rounded to bf16 or to int8.
#
#   K[position, j, :] = k[r, j, :]          k: f32 [rows, kv_heads, head_dim]
#   V[position, j, :] = v[r, j, :]          v: f32 [rows, kv_heads, value_dim]; absent if values_in_keys
#
# task.h gives the layout of a head's keys and values, and what int8 means. 1 task per KV head j.

# One position's key x of a KV head whose first tile is at `keys`.
cdef inline void append_key(char *keys, int64_t position, const float *x, int64_t head_dim, int64_t int8) noexcept nogil:
    cdef float turned[ELLM_CACHE_DIMS]
    if not int8:
        cache_store_key(<ellm_bf16 *> keys, position, x, head_dim)
        return
    memcpy(turned, x, head_dim * sizeof(float))
    cache_turn(turned, head_dim)
    cache_store_key_int8(keys, position, turned, head_dim)


cdef inline void append_value(char *values, int64_t position, const float *x, int64_t dim, int64_t int8) noexcept nogil:
    if int8:
        cache_store_value_int8(values, position, x, dim)
    else:
        cache_store_value(<ellm_bf16 *> values, position, x, dim)


cdef void append(const ellm_task *task) noexcept nogil:
    cdef const ellm_append *op = <const ellm_append *> task.args
    cdef int64_t head = task.index, position
    cdef char *block
    cdef int32_t row
    for row in range(task.rows):
        position = task.step.positions[task.row + row]
        block = cache_block(task.step, task.step.slots[task.row + row], position // ELLM_SPLIT, 0)
        position %= ELLM_SPLIT
        append_key(
            block + op.keys + head * op.key_stride,
            position,
            <const float *> (task.section + op.k) + (row * op.kv_heads + head) * op.head_dim,
            op.head_dim,
            op.int8,
        )
        if not op.values_in_keys:
            append_value(
                block + op.values + head * op.value_stride,
                position,
                <const float *> (task.section + op.v) + (row * op.kv_heads + head) * op.value_dim,
                op.value_dim,
                op.int8,
            )
