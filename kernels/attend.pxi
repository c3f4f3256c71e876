# attend: causal grouped-query attention with online softmax (Milakov and Gimelshein, 2018) over splits of the context.
#
#   out[r, h, :] = sum_s softmax_s(scale * q[r, h, :] . K[s, j, :]) V[s, j, :],  j = h / (heads / kv_heads)
#
# over the keys that row r sees: position - window + 1 .. position, or 0 .. position. out: bf16 [rows, heads,
# value_dim]. With values_in_keys V[s, j, :] is the first dims of K[s, j, :] (the latent of DeepSeek-V2's MLA, section
# 2.1).
#
# Split i is keys [512 i, 512 i + 512). Each (row, head) has of each split where it sees a key, in f32,
#   m = max s,  l = sum e^(s - m),  o = sum bf16(e^(s - m)) V
# and of all, merged in order of split, m' = max(m, m_i), l' = l e^(m - m') + l_i e^(m_i - m'), o' so too; out = o / l.
# A sink (gpt-oss) is merged last, as a split with m = sink, l = 1, o = 0.
# A task does that for some splits of an item and one group of heads. It either merges them (item.partial < 0) or stores
# each (o, m, l) for the kernel `merge`; both are the same arithmetic, so they give the same bits.
#
# The heads of the group and the item's rows are the rows of one matrix, so a key block is read once for all of them.
# Task = item * head groups + head group.

from libc.math cimport INFINITY

cdef enum:
    VALUE_TILES = 4  # column tiles of values that are made of keys at a time: 64 KiB, contract.py counts them


# Query heads [first, first + size) of one KV head: the heads of a KV head in as few equal parts as ELLM_FOLD allows.
cdef struct HeadGroup:
    int64_t item          # of the row block
    int64_t kv_head
    int64_t first
    int64_t size


cdef inline HeadGroup head_group(int64_t index, int64_t heads, int64_t kv_heads) noexcept nogil:
    cdef int64_t shared = heads // kv_heads, parts = (shared + ELLM_FOLD - 1) // ELLM_FOLD
    cdef int64_t most = (shared + parts - 1) // parts, part = index % parts
    cdef HeadGroup group
    group.item = index // (kv_heads * parts)
    group.kv_head = index // parts % kv_heads
    group.first = group.kv_head * shared + part * most
    group.size = min(most, shared - part * most)
    return group


# One task: F = item.rows * heads folded rows, row f = (position f // heads, head first + f % heads).
cdef struct Fold:
    int64_t rows          # F; every matrix below has F rounded up to 16 rows
    int64_t heads
    int64_t first
    const char *keys      # tiles of the KV head in the split's block
    const char *values    # the same, or NULL: they are in the keys
    int64_t q_stride
    int64_t s_stride
    int64_t o_stride
    ellm_bf16 *q          # [F, q_stride] from head_dim on zero
    float *scores         # [F, s_stride] of the keys of a split
    ellm_bf16 *p          # [F, s_stride]
    float *part           # [F, o_stride] numerator of one split
    float *part_max       # [F]
    float *part_sum       # [F]
    float *o              # [F, o_stride] numerator of the splits so far
    float *max            # [F]
    float *sum            # [F]
    ellm_bf16 *tiles      # [VALUE_TILES][ELLM_SPLIT / ELLM_TILE_K] tiles of values that are in keys


# Lays the matrices of a task out in scratch; contract.scratch_bytes counts the same.
cdef inline Fold fold_layout(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, HeadGroup group
) noexcept nogil:
    cdef int64_t rows
    cdef Fold fold
    fold.heads = group.size
    fold.first = group.first
    fold.rows = item.rows * fold.heads
    fold.q_stride = panel_stride(k_tiles_of(op.head_dim))
    fold.s_stride = panel_stride(ELLM_SPLIT // ELLM_TILE_K)
    fold.o_stride = ELLM_TILE_N * n_tiles_of(op.value_dim)
    rows = ELLM_TILE_N * n_tiles_of(fold.rows)
    fold.scores = <float *> scratch_memory(task)
    fold.part = fold.scores + rows * fold.s_stride
    fold.o = fold.part + rows * fold.o_stride
    fold.p = <ellm_bf16 *> (fold.o + rows * fold.o_stride)
    fold.q = fold.p + rows * fold.s_stride
    fold.part_max = <float *> (fold.q + rows * fold.q_stride)
    fold.part_sum = fold.part_max + rows
    fold.max = fold.part_sum + rows
    fold.sum = fold.max + rows
    fold.tiles = <ellm_bf16 *> (fold.sum + rows)
    return fold


# Copies the queries of the item's rows and the group's heads, zero padded, and starts the running softmax.
cdef inline void fold_queries(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, const Fold *fold
) noexcept nogil:
    cdef int64_t f, offset, n = op.head_dim
    for f in range(fold.rows):
        offset = (item.row - task.row + f // fold.heads) * op.q_stride
        offset += (fold.first + f % fold.heads) * op.q_head_stride
        if op.q_bf16:
            memcpy(fold.q + f * fold.q_stride, <const ellm_bf16 *> (task.section + op.q) + offset, 2 * n)
        else:
            vector_to_bf16(<const float *> (task.section + op.q) + offset, fold.q + f * fold.q_stride, n)
        memset(fold.q + f * fold.q_stride + n, 0, 2 * (fold.q_stride - n))
        memset(fold.o + f * fold.o_stride, 0, 4 * fold.o_stride)
        fold.max[f] = -1e30
        fold.sum[f] = 0


# Softmax numerators of row f over its keys [low, high) of a split, zero for the others of [begin, end), whose scores
# are there. A row that sees no key has part_sum 0 and whatever else.
cdef inline void fold_softmax(
    const Fold *fold, int64_t f, float scale, int64_t low, int64_t high, int64_t begin, int64_t end
) noexcept nogil:
    cdef float *scores = fold.scores + f * fold.s_stride
    cdef int64_t i
    fold.part_sum[f] = 0
    if low >= high:
        return
    for i in range(begin, low):
        scores[i] = -INFINITY
    for i in range(high, end):
        scores[i] = -INFINITY
    fold.part_max[f] = vector_max(scores + begin, end - begin) * scale
    vector_exp(scores + begin, scale, fold.part_max[f], end - begin)
    fold.part_sum[f] = vector_sum(scores + begin, end - begin)
    vector_to_bf16(scores + begin, fold.p + f * fold.s_stride + begin, end - begin)


# part = p . V over the keys [begin, end) of the split.
cdef inline void fold_values(const ellm_attend *op, const Fold *fold, int64_t begin, int64_t end) noexcept nogil:
    cdef int64_t n_tiles = n_tiles_of(op.value_dim), k_tiles = (end - begin) // ELLM_TILE_K, part, n, count
    cdef int64_t key_tiles = k_tiles_of(op.head_dim)
    cdef const ellm_bf16 *keys = <const ellm_bf16 *> fold.keys + begin // ELLM_TILE_N * key_tiles * ELLM_TILE
    if fold.values != NULL:
        tile_matmul(
            fold.p + begin, fold.s_stride, <int> fold.rows,
            <const ellm_bf16 *> fold.values + begin // ELLM_TILE_K * n_tiles * ELLM_TILE, ELLM_TILE, n_tiles * ELLM_TILE,
            <int> n_tiles, <int> k_tiles, fold.part, fold.o_stride, 0,
        )
        return
    for part in range((n_tiles + VALUE_TILES - 1) // VALUE_TILES):
        n = part * VALUE_TILES
        count = min(VALUE_TILES, n_tiles - n)
        cache_values_of_keys(keys + n // 2 * ELLM_TILE, key_tiles, k_tiles, count, fold.tiles)
        tile_matmul(
            fold.p + begin, fold.s_stride, <int> fold.rows, fold.tiles, k_tiles * ELLM_TILE, ELLM_TILE,
            <int> count, <int> k_tiles, fold.part + ELLM_TILE_N * n, fold.o_stride, 0,
        )


# Where the split's keys and values are: looked up once for all of its tiles.
cdef inline void fold_block(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, int64_t kv_head, int64_t split, Fold *fold
) noexcept nogil:
    cdef char *block = cache_block(task.step, item.slot, split, op.block_stride)
    fold.keys = block + op.keys + kv_head * op.key_stride
    fold.values = NULL if op.values_in_keys else block + op.values + kv_head * op.value_stride


# One split: part, part_max and part_sum of every folded row.
cdef inline void fold_split(
    const ellm_attend *op, const ellm_attend_item *item, int64_t split, const Fold *fold
) noexcept nogil:
    cdef int64_t key_tiles = k_tiles_of(op.head_dim), first = split * ELLM_SPLIT, begin, end, f, position, low
    begin = max(item.position - op.window + 1 - first, 0) // ELLM_TILE_K * ELLM_TILE_K if op.window else 0
    end = min(ELLM_TILE_K * k_tiles_of(item.position + item.rows - first), ELLM_SPLIT)
    if begin >= end:
        memset(fold.part_sum, 0, 4 * fold.rows)
        return
    tile_matmul(
        fold.q, fold.q_stride, <int> fold.rows,
        <const ellm_bf16 *> fold.keys + begin // ELLM_TILE_N * key_tiles * ELLM_TILE, key_tiles * ELLM_TILE,
        ELLM_TILE,
        <int> ((end - begin) // ELLM_TILE_N), <int> key_tiles, fold.scores + begin, fold.s_stride, 0,
    )
    for f in range(fold.rows):
        position = item.position + f // fold.heads
        low = max(position - op.window + 1 - first, begin) if op.window else 0
        fold_softmax(fold, f, <float> op.scale, low, min(position + 1 - first, end), begin, end)
    fold_values(op, fold, begin, end)


# Adds a split's (part, part_max, part_sum) to the running (o, max, sum). A sum of 0 says that the row sees no key.
cdef inline void merge_part(
    float *o, float *max, float *sum, const float *part, float part_max, float part_sum, int64_t n
) noexcept nogil:
    cdef float top, old, new
    cdef int64_t i
    if part_sum == 0:
        return
    top = part_max if part_max > max[0] else max[0]
    old = exp_f32(max[0] - top)
    new = exp_f32(part_max - top)
    for i in range(n):
        o[i] = o[i] * old + part[i] * new
    sum[0] = sum[0] * old + part_sum * new
    max[0] = top


# Columns of a head of the row `out` = o / sum with the head's sink, if there are sinks. o is changed.
cdef inline void write_quotient(
    float *o, float max, float sum, const float *sinks, int64_t head, char *out, int64_t bf16, int64_t n
) noexcept nogil:
    cdef float top, old
    cdef int64_t i
    if sinks != NULL:
        top = sinks[head] if sinks[head] > max else max
        old = exp_f32(max - top)
        sum = sum * old + exp_f32(sinks[head] - top)
        for i in range(n):
            o[i] *= old
    for i in range(n):
        o[i] /= sum
    vector_store(o, out, bf16, head * n, n)


# Stores the split for `merge`, at the index that task.h gives.
cdef inline void store_partials(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, int64_t split, const Fold *fold
) noexcept nogil:
    cdef int64_t f, partial, n = op.value_dim
    cdef float *out
    for f in range(fold.rows):
        partial = item.partial + f // fold.heads * (item.split_last - item.split_first) + split - item.split_first
        out = task.step.partials + (partial * op.heads + fold.first + f % fold.heads) * (n + 2)
        memcpy(out, fold.part + f * fold.o_stride, 4 * n)
        out[n] = fold.part_max[f]
        out[n + 1] = fold.part_sum[f]


cdef inline void write_outputs(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, const Fold *fold
) noexcept nogil:
    cdef int64_t f, head, n = op.value_dim
    cdef char *out
    for f in range(fold.rows):
        out = row_of(task.section + op.out, item.row - task.row + f // fold.heads, op.out_stride, op.out_bf16)
        head = fold.first + f % fold.heads
        write_quotient(
            fold.o + f * fold.o_stride, fold.max[f], fold.sum[f], <const float *> op.sinks, head, out, op.out_bf16, n
        )
        if head + 1 == op.heads and op.out_bf16:
            memset(<ellm_bf16 *> out + op.heads * n, 0, 2 * (op.out_stride - op.heads * n))


cdef void attend(const ellm_task *task) noexcept nogil:
    cdef const ellm_attend *op = <const ellm_attend *> task.args
    cdef HeadGroup group = head_group(task.index, op.heads, op.kv_heads)
    cdef const ellm_attend_item *item = task.step.items[op.window_class]
    cdef int64_t split, f
    cdef Fold fold
    item += task.step.item_begin[op.window_class][task.block] + group.item
    fold = fold_layout(task, op, item, group)
    fold_queries(task, op, item, &fold)
    for split in range(item.split_begin, item.split_end):
        fold_block(task, op, item, group.kv_head, split, &fold)
        fold_split(op, item, split, &fold)
        if item.partial >= 0:
            store_partials(task, op, item, split, &fold)
            continue
        for f in range(fold.rows):
            merge_part(
                fold.o + f * fold.o_stride, fold.max + f, fold.sum + f,
                fold.part + f * fold.o_stride, fold.part_max[f], fold.part_sum[f], op.value_dim,
            )
    if item.partial < 0:
        write_outputs(task, op, item, &fold)
