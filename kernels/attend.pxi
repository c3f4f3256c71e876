# attend: causal grouped-query attention with online softmax (Milakov and Gimelshein, 2018) over splits of the context.
#
#   out[r, h, :] = sum_s softmax_s(scale * q[r, h, :] . K[s, j, :]) V[s, j, :],  j = h / (heads / kv_heads)
#
# over the keys that row r sees: position - window + 1 .. position, or 0 .. position. out: bf16 [rows, heads, head_dim].
#
# Split i is keys [512 i, 512 i + 512). Each (row, head) has of each split where it sees a key, in f32,
#   m = max s,  l = sum e^(s - m),  o = sum bf16(e^(s - m)) V
# and of all, merged in order of split, m' = max(m, m_i), l' = l e^(m - m') + l_i e^(m_i - m'), o' so too; out = o / l.
# A task does that for some splits of an item and one KV head. It either merges them (item.partial < 0) or stores each
# (o, m, l) for the kernel `merge`; both are the same arithmetic, so they give the same bits.
#
# The heads of the KV group and the item's rows are the rows of one matrix, so a key block is read once for all of them.
# Task = item * kv_heads + KV head.

from libc.math cimport INFINITY

cdef extern from "panel.h" nogil:
    int64_t panel_stride(int64_t k_tiles)


# One task: F = item.rows * group folded rows, row f = (position f // group, head f % group of the group).
cdef struct Fold:
    int64_t rows          # F; every matrix below has F rounded up to 16 rows
    int64_t group         # query heads of the KV head
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


# Lays the matrices of a task out in scratch; contract.scratch_bytes counts the same.
cdef inline Fold fold_layout(const ellm_attend *op, const ellm_attend_item *item, char *scratch) noexcept nogil:
    cdef Fold fold
    cdef int64_t rows
    fold.group = op.heads // op.kv_heads
    fold.rows = item.rows * fold.group
    fold.q_stride = panel_stride(tiles_of_32(op.head_dim))
    fold.s_stride = panel_stride(ELLM_SPLIT // 32)
    fold.o_stride = 16 * tiles_of_16(op.head_dim)
    rows = 16 * tiles_of_16(fold.rows)
    fold.scores = <float *> scratch
    fold.part = fold.scores + rows * fold.s_stride
    fold.o = fold.part + rows * fold.o_stride
    fold.p = <ellm_bf16 *> (fold.o + rows * fold.o_stride)
    fold.q = fold.p + rows * fold.s_stride
    fold.part_max = <float *> (fold.q + rows * fold.q_stride)
    fold.part_sum = fold.part_max + rows
    fold.max = fold.part_sum + rows
    fold.sum = fold.max + rows
    return fold


# Copies the queries of the item's rows and the group's heads, zero padded, and starts the running softmax.
cdef inline void fold_queries(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, int64_t kv_head, const Fold *fold
) noexcept nogil:
    cdef int64_t f, offset, n = op.head_dim
    for f in range(fold.rows):
        offset = (item.row - task.row + f // fold.group) * op.q_stride
        offset += (kv_head * fold.group + f % fold.group) * op.q_head_stride
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


# One split: part, part_max and part_sum of every folded row.
cdef inline void fold_split(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, int64_t kv_head, int64_t split,
    const Fold *fold
) noexcept nogil:
    cdef const char *sequence = task.step.ranges[item.slot]
    cdef int64_t key_tiles = tiles_of_32(op.head_dim), value_tiles = tiles_of_16(op.head_dim)
    cdef int64_t first = split * ELLM_SPLIT, begin, end, f, position, low
    cdef const ellm_bf16 *tile
    begin = max(item.position - op.window + 1 - first, 0) // 32 * 32 if op.window else 0
    end = min(32 * tiles_of_32(item.position + item.rows - first), ELLM_SPLIT)
    if begin >= end:
        memset(fold.part_sum, 0, 4 * fold.rows)
        return
    tile = <const ellm_bf16 *> (sequence + op.keys + kv_head * op.key_stride)
    tile += (first + begin) // 16 * key_tiles * ELLM_TILE
    tile_matmul(
        fold.q, fold.q_stride, <int> fold.rows, tile, key_tiles * ELLM_TILE, ELLM_TILE,
        <int> ((end - begin) // 16), <int> key_tiles, fold.scores + begin, fold.s_stride, 0,
    )
    for f in range(fold.rows):
        position = item.position + f // fold.group
        low = max(position - op.window + 1 - first, begin) if op.window else 0
        fold_softmax(fold, f, <float> op.scale, low, min(position + 1 - first, end), begin, end)
    tile = <const ellm_bf16 *> (sequence + op.values + kv_head * op.value_stride)
    tile += (first + begin) // 32 * value_tiles * ELLM_TILE
    tile_matmul(
        fold.p + begin, fold.s_stride, <int> fold.rows, tile, ELLM_TILE, value_tiles * ELLM_TILE,
        <int> value_tiles, <int> ((end - begin) // 32), fold.part, fold.o_stride, 0,
    )


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


cdef inline void write_quotient(const float *o, float sum, ellm_bf16 *out, int64_t n) noexcept nogil:
    cdef int64_t i
    for i in range(n):
        out[i] = bf16_from_f32(o[i] / sum)


# Stores the split for `merge`, at the index that task.h gives.
cdef inline void store_partials(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, int64_t kv_head, int64_t split,
    const Fold *fold
) noexcept nogil:
    cdef int64_t f, partial, n = op.head_dim
    cdef float *out
    for f in range(fold.rows):
        partial = item.partial + f // fold.group * (item.split_last - item.split_first) + split - item.split_first
        out = task.step.partials
        out += (partial * op.heads + kv_head * fold.group + f % fold.group) * (n + 2)
        memcpy(out, fold.part + f * fold.o_stride, 4 * n)
        out[n] = fold.part_max[f]
        out[n + 1] = fold.part_sum[f]


cdef void attend(const ellm_task *task) noexcept nogil:
    cdef const ellm_attend *op = <const ellm_attend *> task.args
    cdef int64_t kv_head = task.index % op.kv_heads, split, f, head, n = op.head_dim
    cdef const ellm_attend_item *item = task.step.items[op.window_class]
    cdef ellm_bf16 *out
    cdef Fold fold
    item += task.step.item_begin[op.window_class][task.block] + task.index // op.kv_heads
    fold = fold_layout(op, item, scratch_memory(task))
    fold_queries(task, op, item, kv_head, &fold)
    for split in range(item.split_begin, item.split_end):
        fold_split(task, op, item, kv_head, split, &fold)
        if item.partial >= 0:
            store_partials(task, op, item, kv_head, split, &fold)
            continue
        for f in range(fold.rows):
            merge_part(
                fold.o + f * fold.o_stride, fold.max + f, fold.sum + f,
                fold.part + f * fold.o_stride, fold.part_max[f], fold.part_sum[f], n,
            )
    if item.partial >= 0:
        return
    for f in range(fold.rows):
        out = <ellm_bf16 *> (task.section + op.out) + (item.row - task.row + f // fold.group) * op.out_stride
        head = kv_head * fold.group + f % fold.group
        write_quotient(fold.o + f * fold.o_stride, fold.sum[f], out + head * n, n)
        if head + 1 == op.heads:
            memset(out + op.heads * n, 0, 2 * (op.out_stride - op.heads * n))
