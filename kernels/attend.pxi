# attend: causal grouped-query attention with online softmax (Milakov and Gimelshein, 2018) over splits of the context.
#
#   out[r, h, :] = sum_s softmax_s(scale * q[r, h, :] . K[s, j, :]) V[s, j, :],  j = h / (heads / kv_heads)
#
# over the keys that row r sees: position - window + 1 .. position, or 0 .. position. out: bf16 [rows, heads,
# value_dim]. With int8, K and V are codes with a scale a position: the scores of a column are multiplied by the key's, and
# its p, but not in l, by the value's. With values_in_keys V[s, j, :] is the first dims of K[s, j, :] (the latent of DeepSeek-V2's MLA, section
# 2.1).
#
# Split i is keys [512 i, 512 i + 512). Each (row, head) has of each split where it sees a key, in f32,
#   m = max s,  p = bf16(e^(s - m)),  l = sum p,  o = sum p V
# and of all, merged in order of split, m' = max(m, m_i), l' = l e^(m - m') + l_i e^(m_i - m'), o' so too; out = o / l.
# A sink (gpt-oss) is merged last, as a split with m = sink, l = 1, o = 0.
# A task does that for some splits of an item and one group of heads. It either merges them (item.partial < 0) or stores
# each (o, m, l) for the kernel `merge`; both are the same arithmetic, so they give the same bits.
#
# The heads of the group and the item's rows are the rows of one matrix. A split's keys and values are read into L2 once
# for all of them, and multiplied by a part of them at a time, whose scores stay there too.
# Task = item * head groups + head group.

from libc.math cimport INFINITY

cdef extern from "softmax.h" nogil:
    void softmax_scale(float *x, const float *scales, int64_t n)
    float softmax_max(const float *x, int64_t n)
    float softmax_row(const float *x, int64_t n, float scale, float max, ellm_bf16 *p)
    float softmax_weighted_row(
        const float *x, int64_t n, float scale, float max, const float *weights, ellm_bf16 *p
    )

cdef extern from "attend_tiles.h" nogil:
    void attend_matmul(const ellm_bf16 *a, int64_t lda, int64_t rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                       int64_t n_tiles, int64_t k_tiles, float *c, int64_t ldc)

cdef enum:
    VALUE_TILES = 4  # column tiles of values that are made of keys at a time: 64 KiB, records.py counts them
    FOLD_PART = 64  # folded rows that are scored at a time, or twice as many of values in keys: records.py counts them
    MAXIMA = 4  # rows whose maxima are found before their exponentials, as a maximum is long in coming


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
    int64_t rows          # F; every matrix below has F or P rows, rounded up to 16
    int64_t part_rows     # P
    int64_t heads
    int64_t first
    const ellm_bf16 *keys    # tiles of the KV head in a block
    const ellm_bf16 *values  # the same, or NULL: they are in the keys
    int64_t q_stride
    int64_t s_stride
    int64_t o_stride
    ellm_bf16 *q          # [F, q_stride] from head_dim on zero
    float *scores         # [P, s_stride] of the keys of a split
    ellm_bf16 *p          # [P, s_stride]
    float *part           # [P, o_stride] numerator of one split
    float *part_max       # [P]
    float *part_sum       # [P]
    float *o              # [F, o_stride] numerator of the splits so far
    float *max            # [F]
    float *sum            # [F]
    ellm_bf16 *tiles      # [VALUE_TILES][ELLM_SPLIT / ELLM_TILE_K] of values that are in keys, or a split's keys and values
    float *scales         # [2][ELLM_SPLIT] of keys and values in int8


# Lays the matrices of a task out in scratch; contract.scratch_bytes counts the same.
cdef inline Fold fold_layout(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, HeadGroup group
) noexcept nogil:
    cdef int64_t rows, part
    cdef Fold fold
    fold.heads = group.size
    fold.first = group.first
    fold.rows = item.rows * fold.heads
    fold.q_stride = panel_stride(k_tiles_of(op.head_dim))
    fold.s_stride = panel_stride(ELLM_SPLIT // ELLM_TILE_K)
    fold.o_stride = ELLM_TILE_N * n_tiles_of(op.value_dim)
    rows = ELLM_TILE_N * n_tiles_of(fold.rows)
    fold.part_rows = 2 * FOLD_PART if op.values_in_keys else FOLD_PART  # so that fewer make the same values
    part = min(rows, fold.part_rows)
    fold.scores = <float *> scratch_memory(task)
    fold.part = fold.scores + part * fold.s_stride
    fold.o = fold.part + part * fold.o_stride
    fold.p = <ellm_bf16 *> (fold.o + rows * fold.o_stride)
    fold.q = fold.p + part * fold.s_stride
    fold.part_max = <float *> (fold.q + rows * fold.q_stride)
    fold.part_sum = fold.part_max + part
    fold.max = fold.part_sum + part
    fold.sum = fold.max + rows
    fold.scales = fold.sum + rows
    fold.tiles = <ellm_bf16 *> (fold.scales + 2 * ELLM_SPLIT)
    return fold


# Where the split's keys and values are: looked up once for all of its tiles. Those in int8 become bf16 tiles first, as far
# as the item sees them.
cdef inline void fold_block(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, int64_t kv_head, int64_t split, Fold *fold
) noexcept nogil:
    cdef int64_t first = split * ELLM_SPLIT, key_tiles = k_tiles_of(op.head_dim)
    cdef const char *block = cache_block(task.step, item.slot, split, op.block_stride)
    cdef const char *keys = block + op.keys + kv_head * op.key_stride
    cdef const char *values = block + op.values + kv_head * op.value_stride
    cdef int64_t count = min(k_tiles_of(item.position + item.rows - first), ELLM_SPLIT // ELLM_TILE_K)
    if not op.int8:
        fold.keys = <const ellm_bf16 *> keys
        fold.values = <const ellm_bf16 *> values
        if op.values_in_keys:
            fold.values = NULL
        return
    fold.keys = fold.tiles
    fold.values = fold.tiles + ELLM_SPLIT // ELLM_TILE_N * key_tiles * ELLM_TILE
    cache_expand(
        keys, 2 * count, cache_key_bytes(op.head_dim), ELLM_TILE_N, <ellm_bf16 *> fold.keys, fold.scales,
    )
    cache_expand(
        values, count, cache_value_bytes(op.value_dim), ELLM_TILE_K, <ellm_bf16 *> fold.values, fold.scales + ELLM_SPLIT,
    )


# One query as bf16.
cdef inline void fold_query(const ellm_attend *op, const char *q, int64_t offset, ellm_bf16 *out) noexcept nogil:
    cdef float turned[ELLM_CACHE_DIMS]
    cdef int64_t n = op.head_dim
    if op.q_bf16:
        memcpy(out, <const ellm_bf16 *> q + offset, 2 * n)
    elif op.turns:
        memcpy(turned, <const float *> q + offset, 4 * n)
        cache_turn(turned, n)
        vector_to_bf16(turned, out, n)
    else:
        vector_to_bf16(<const float *> q + offset, out, n)


# Copies the queries of the item's rows and the group's heads, zero padded, and starts the running softmax.
cdef inline void fold_queries(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, const Fold *fold
) noexcept nogil:
    cdef int64_t f, offset, n = op.head_dim
    for f in range(fold.rows):
        offset = (item.row - task.row + f // fold.heads) * op.q_stride
        offset += (fold.first + f % fold.heads) * op.q_head_stride
        fold_query(op, task.section + op.q, offset, fold.q + f * fold.q_stride)
        memset(fold.q + f * fold.q_stride + n, 0, 2 * (fold.q_stride - n))
        memset(fold.o + f * fold.o_stride, 0, 4 * fold.o_stride)
        fold.max[f] = -1e30
        fold.sum[f] = 0


# The maximum of row f of a part over its keys [low, high) of a split, whose scores are there for [begin, end); those of
# other keys become -inf. It is not scaled yet; part_sum is 0 if the row sees no key, else 1.
cdef inline void fold_max(
    const ellm_attend *op, const Fold *fold, int64_t f, int64_t low, int64_t high, int64_t begin, int64_t end
) noexcept nogil:
    cdef float *scores = fold.scores + f * fold.s_stride
    cdef int64_t i
    fold.part_sum[f] = low < high
    if low >= high:
        return
    if op.int8:
        softmax_scale(scores + low, fold.scales + low, high - low)
    for i in range(begin, low):
        scores[i] = -INFINITY
    for i in range(high, end):
        scores[i] = -INFINITY
    fold.part_max[f] = softmax_max(scores + begin, end - begin)


# Numerators p of row f for the columns [begin, end), and their sum; scales the maximum.
cdef inline void fold_numerators(
    const ellm_attend *op, const Fold *fold, int64_t f, int64_t begin, int64_t end
) noexcept nogil:
    cdef const float *scores = fold.scores + f * fold.s_stride + begin
    cdef ellm_bf16 *p = fold.p + f * fold.s_stride + begin
    cdef float scale = <float> op.scale, top = fold.part_max[f]
    if op.int8:
        fold.part_sum[f] = softmax_weighted_row(
            scores, end - begin, scale, top, fold.scales + ELLM_SPLIT + begin, p
        )
    else:
        fold.part_sum[f] = softmax_row(scores, end - begin, scale, top, p)
    fold.part_max[f] = top * scale


# Maxima, numerators p and their sums of `rows` folded rows from `row` on. A row that sees no key has part_sum 0 and
# whatever else.
cdef inline void fold_softmax(
    const ellm_attend *op, const ellm_attend_item *item, const Fold *fold, int64_t row, int64_t rows, int64_t first,
    int64_t begin, int64_t end
) noexcept nogil:
    cdef int64_t f, i, position, low
    for i in range((rows + MAXIMA - 1) // MAXIMA):
        for f in range(i * MAXIMA, min(i * MAXIMA + MAXIMA, rows)):
            position = item.position + (row + f) // fold.heads
            low = max(position - op.window + 1 - first, begin) if op.window else 0
            fold_max(op, fold, f, low, min(position + 1 - first, end), begin, end)
        for f in range(i * MAXIMA, min(i * MAXIMA + MAXIMA, rows)):
            if fold.part_sum[f]:
                fold_numerators(op, fold, f, begin, end)


# part = p . V over the columns [begin, end) of a split, for `rows` rows.
cdef inline void fold_values(
    const ellm_attend *op, const Fold *fold, int64_t rows, int64_t begin, int64_t end
) noexcept nogil:
    cdef int64_t n_tiles = n_tiles_of(op.value_dim), k_tiles = (end - begin) // ELLM_TILE_K, part, n, count
    cdef int64_t key_tiles = k_tiles_of(op.head_dim)
    cdef const ellm_bf16 *keys = fold.keys + begin // ELLM_TILE_N * key_tiles * ELLM_TILE
    if fold.values != NULL:
        attend_matmul(
            fold.p + begin, fold.s_stride, rows, fold.values + begin // ELLM_TILE_K * n_tiles * ELLM_TILE, ELLM_TILE,
            n_tiles * ELLM_TILE, n_tiles, k_tiles, fold.part, fold.o_stride,
        )
        return
    for part in range((n_tiles + VALUE_TILES - 1) // VALUE_TILES):
        n = part * VALUE_TILES
        count = min(VALUE_TILES, n_tiles - n)
        cache_values_of_keys(keys + n // 2 * ELLM_TILE, key_tiles, k_tiles, count, fold.tiles)
        attend_matmul(
            fold.p + begin, fold.s_stride, rows, fold.tiles, k_tiles * ELLM_TILE, ELLM_TILE,
            count, k_tiles, fold.part + ELLM_TILE_N * n, fold.o_stride,
        )


# One split and part: part, part_max and part_sum of the folded rows [row, row + rows).
cdef inline void fold_split(
    const ellm_attend *op, const ellm_attend_item *item, int64_t split, const Fold *fold, int64_t row, int64_t rows
) noexcept nogil:
    cdef int64_t key_tiles = k_tiles_of(op.head_dim), first = split * ELLM_SPLIT, begin, end, position
    position = item.position + row // fold.heads
    begin = max(position - op.window + 1 - first, 0) // ELLM_TILE_K * ELLM_TILE_K if op.window else 0
    position = item.position + (row + rows - 1) // fold.heads
    end = min(ELLM_TILE_K * k_tiles_of(position + 1 - first), ELLM_SPLIT)
    if begin >= end:
        memset(fold.part_sum, 0, 4 * rows)
        return
    attend_matmul(
        fold.q + row * fold.q_stride, fold.q_stride, rows,
        fold.keys + begin // ELLM_TILE_N * key_tiles * ELLM_TILE, key_tiles * ELLM_TILE, ELLM_TILE,
        (end - begin) // ELLM_TILE_N, key_tiles, fold.scores + begin, fold.s_stride,
    )
    fold_softmax(op, item, fold, row, rows, first, begin, end)
    fold_values(op, fold, rows, begin, end)


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


# Stores a split and part for `merge`, at the index that task.h gives.
cdef inline void store_partials(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, int64_t split, const Fold *fold,
    int64_t row, int64_t rows
) noexcept nogil:
    cdef int64_t f, partial, n = op.value_dim
    cdef float *out
    for f in range(rows):
        partial = item.partial + (row + f) // fold.heads * (item.split_last - item.split_first)
        partial += split - item.split_first
        out = task.step.partials + (partial * op.heads + fold.first + (row + f) % fold.heads) * (n + 2)
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


# One split of a task for the folded rows [row, row + rows).
cdef inline void attend_split(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, int64_t split, const Fold *fold,
    int64_t row, int64_t rows
) noexcept nogil:
    cdef int64_t f
    fold_split(op, item, split, fold, row, rows)
    if item.partial >= 0:
        store_partials(task, op, item, split, fold, row, rows)
        return
    for f in range(rows):
        merge_part(
            fold.o + (row + f) * fold.o_stride, fold.max + row + f, fold.sum + row + f,
            fold.part + f * fold.o_stride, fold.part_max[f], fold.part_sum[f], op.value_dim,
        )


cdef void attend(const ellm_task *task) noexcept nogil:
    cdef const ellm_attend *op = <const ellm_attend *> task.args
    cdef HeadGroup group = head_group(task.index, op.heads, op.kv_heads)
    cdef const ellm_attend_item *item = task.step.items[op.window_class]
    cdef int64_t split, part, row
    cdef Fold fold
    item += task.step.item_begin[op.window_class][task.block] + group.item
    fold = fold_layout(task, op, item, group)
    fold_queries(task, op, item, &fold)
    for split in range(item.split_begin, item.split_end):
        fold_block(task, op, item, group.kv_head, split, &fold)
        for part in range((fold.rows + fold.part_rows - 1) // fold.part_rows):
            row = part * fold.part_rows
            attend_split(task, op, item, split, &fold, row, min(fold.part_rows, fold.rows - row))
    if item.partial < 0:
        write_outputs(task, op, item, &fold)
