# qkv: the joined q | k | v projection of a row block; heads of q, of k, then of v, each head_tiles column tiles wide
#
#   x       f32 or bf16 [rows, k]             weight  tiles [(heads + 2 kv_heads) * head_tiles][k_tiles]
#   q_norm, k_norm  f32 [head_dim]: rms_norm of each q (k) head           angles  f32 [rows, rotary / 2, 2]
#   q       bf16 [rows, heads, q_width], zero from head_dim on
#   keys, values    written at the row's position in the blocks of its sequence, in the layouts of task.h
#
# bias, head norm and rope are f32 and rounded once: to bf16, or keys and values to int8, for which q is turned too.

cdef void qkv(const ellm_task *task) noexcept nogil:
    cdef const ellm_qkv *op = <const ellm_qkv *> task.args
    cdef product p = multiply(task, op)
    cdef int64_t first = p.tile // op.head_tiles
    cdef int64_t head, row
    cdef float *c
    for head in range(first, first + p.tiles // op.head_tiles):
        c = p.c + (head - first) * ELLM_TILE_N * op.head_tiles
        if head >= op.heads + op.kv_heads:
            qkv_values(task, op, head - op.heads - op.kv_heads, c, p.stride)
        else:
            for row in range(task.rows):
                qkv_head(task, op, head, row, c + row * p.stride)


# All rows of a value head, x f32 [rows, stride]. Neighbouring positions of a sequence share the rows of a tile.
cdef inline void qkv_values(
    const ellm_task *task, const ellm_qkv *op, int64_t kv_head, const float *x, int64_t stride
) noexcept nogil:
    cdef const int32_t *positions = task.step.positions + task.row
    cdef const int32_t *slots = task.step.slots + task.row
    cdef int64_t row = 0, position
    cdef char *values
    while row < task.rows:
        values = cache_block(task.step, slots[row], positions[row] // ELLM_SPLIT, 0)
        values += op.values + kv_head * op.value_stride
        position = positions[row] % ELLM_SPLIT
        if (not op.int8 and row + 1 < task.rows and position % 2 == 0 and positions[row + 1] == positions[row] + 1
                and slots[row + 1] == slots[row]):
            cache_store_two_values(<ellm_bf16 *> values, position, x + row * stride, stride, op.head_dim)
            row += 2
        else:
            append_value(values, position, x + row * stride, op.head_dim, op.int8)
            row += 1


# One row of a head of q or k, x its f32 [head_dim].
cdef inline void qkv_head(
    const ellm_task *task, const ellm_qkv *op, int64_t head, int64_t row, float *x
) noexcept nogil:
    cdef const float *norm = <const float *> op.q_norm if head < op.heads else <const float *> op.k_norm
    cdef int64_t position = task.step.positions[task.row + row]
    cdef char *block = cache_block(task.step, task.step.slots[task.row + row], position // ELLM_SPLIT, 0)
    cdef int64_t kv_head = head - op.heads
    cdef ellm_bf16 *q
    position %= ELLM_SPLIT
    if norm != NULL:
        vector_norm(x, norm, vector_rms_scale(x, op.head_eps, op.head_dim), x, op.head_dim)
    if op.angles >= 0:
        vector_rotate(x, <float *> (task.section + op.angles) + row * op.rotary, op.rotary)
    if kv_head >= 0:
        append_key(block + op.keys + kv_head * op.key_stride, position, x, op.head_dim, op.int8)
        return
    if op.int8:
        cache_turn(x, op.head_dim)
    q = <ellm_bf16 *> (task.section + op.q) + (row * op.heads + head) * op.q_width
    vector_to_bf16(x, q, op.head_dim)
    memset(q + op.head_dim, 0, (op.q_width - op.head_dim) * sizeof(ellm_bf16))
