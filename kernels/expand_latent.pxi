# expand_latent: keys and values of every head from the cached latents of DeepSeek-V2's MLA (section 2.1), so that attend
# may score against key_dim + rotary dims in place of latent + rotary, where many rows share the work of the expansion.
#
#   K[s, h, :] = bf16(c[s, :] . W_K[h]^T) | r[s, :]      c[s, :], r[s, :]: the first `latent` and the last `rotary` dims
#   V[s, h, :] = bf16(c[s, :] . W_V[h]^T)                of the cached key of position s
#
# for the positions s of one split of the context that the sequences of the step have reached with their last rows. Keys
# and values lie as append would leave those of `heads` KV heads. Task = split * heads + head: the tasks of a split find
# its cached keys in the worker's panel.

cdef enum:
    EXPAND_ROWS = 128  # positions that are multiplied at a time; contract.py counts them


# The cached keys of a split as bf16 rows, panel_stride apart.
cdef inline ellm_bf16 *split_panel(
    const ellm_task *task, const ellm_expand_latent *op, int64_t slot, int64_t split, int64_t rows
) noexcept nogil:
    cdef ellm_bf16 *panel = <ellm_bf16 *> (task.scratch + PANEL_HEADER)
    cdef int64_t key_tiles = k_tiles_of(op.latent + op.rotary)
    cdef const ellm_bf16 *keys = <const ellm_bf16 *> (cache_block(task.step, slot, split, 0) + op.cached)
    if panel_claim(task, <const ellm_matmul *> op, slot << 32 | split):
        cache_load_keys(keys, key_tiles, rows, panel, panel_stride(key_tiles))
    return panel


# Keys and values of one head for `rows` positions of a block, whose cached keys are the rows of a, lda apart. c: scratch.
cdef inline void expand_rows(
    const ellm_expand_latent *op, char *block, int64_t head, int64_t position, const ellm_bf16 *a, int64_t lda,
    int64_t rows, float *c
) noexcept nogil:
    cdef int64_t stride = ELLM_TILE_N * n_tiles_of(max(op.key_dim + op.rotary, op.value_dim)), row
    cdef ellm_bf16 *keys = <ellm_bf16 *> (block + op.keys + head * op.key_stride)
    cdef ellm_bf16 *values = <ellm_bf16 *> (block + op.values + head * op.value_stride)
    cdef ellm_bf16 *tiles = <ellm_bf16 *> (c + EXPAND_ROWS * stride)
    cdef int k_tiles = <int> k_tiles_of(op.latent)
    weight_matmul(
        a, lda, <int> rows, <const char *> op.to_keys + head * op.to_keys_stride, op.to_keys_format,
        <int> n_tiles_of(op.key_dim), k_tiles, c, stride, tiles,
    )
    for row in range(rows):
        vector_from_bf16(a + row * lda + op.latent, c + row * stride + op.key_dim, op.rotary)
        cache_store_key(keys, position + row, c + row * stride, op.key_dim + op.rotary)
    weight_matmul(
        a, lda, <int> rows, <const char *> op.to_values + head * op.to_values_stride, op.to_values_format,
        <int> n_tiles_of(op.value_dim), k_tiles, c, stride, tiles,
    )
    for row in range(rows // 2):
        cache_store_two_values(values, position + 2 * row, c + 2 * row * stride, stride, op.value_dim)
    if rows % 2:
        cache_store_value(values, position + rows - 1, c + (rows - 1) * stride, op.value_dim)


cdef void expand_latent(const ellm_task *task) noexcept nogil:
    cdef const ellm_expand_latent *op = <const ellm_expand_latent *> task.args
    cdef const ellm_step *step = task.step
    cdef int64_t split = task.index // op.heads, head = task.index % op.heads, first = split * ELLM_SPLIT
    cdef int64_t lda = panel_stride(k_tiles_of(op.latent + op.rotary)), row, slot, rows, part, begin
    cdef ellm_bf16 *a
    cdef char *block
    for row in range(step.rows):
        slot = step.slots[row]
        if row + 1 < step.rows and step.slots[row + 1] == slot:
            continue
        rows = min(<int64_t> step.positions[row] + 1 - first, ELLM_SPLIT)
        if rows <= 0:
            continue
        a = split_panel(task, op, slot, split, rows)
        block = cache_block(step, slot, split, op.block_stride)
        for part in range((rows + EXPAND_ROWS - 1) // EXPAND_ROWS):
            begin = part * EXPAND_ROWS
            expand_rows(
                op, block, head, begin, a + begin * lda, lda, min(EXPAND_ROWS, rows - begin),
                <float *> (a + ELLM_SPLIT * lda),
            )
