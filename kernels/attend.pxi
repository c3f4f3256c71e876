# attend: causal grouped-query attention with online softmax (Milakov and Gimelshein, 2018) over splits of the context.
#
#   out[r, h, :] = sum_s softmax_s(scale * q[r, h, :] . K[s, j, :]) V[s, j, :],  j = h / (heads / kv_heads)
#
# over the keys that row r sees: position - window + 1 .. position, or 0 .. position. out: bf16 [rows, heads,
# value_dim]. With int8, K and V are codes with a scale a position: the scores of a column are multiplied by the key's, and
# its p, but not in l, by the value's. With values_in_keys V[s, j, :] is the first dims of K[s, j, :] (the latent of DeepSeek-V2's MLA, section
# 2.1).
#
# Keys are cut at absolute positions: into spans of 4096, and these into leaves, of 256 keys in the first span and 512 in
# others. Each (row, head) has of each leaf where it sees a key, in f32,
#   m = max s,  p = bf16(e^(s - m)),  l = sum p,  o = sum p V
# and of a span its leaves merged in order, m' = max(m, m_i), l' = l e^(m - m') + l_i e^(m_i - m'), o' so too; and of all
# the spans merged in order likewise; out = o / l. A sink (gpt-oss) is merged last, as a span with m = sink, l = 1, o = 0.
# A task does that for some leaves of an item and some heads of a KV head. It merges all of them (item.partial < 0), or
# those of a span, or none, and stores each (o, m, l) for the kernel `merge`; all are the same arithmetic, so they give the
# same bits: to merge something with nothing changes no bit of it.
#
# The heads and the item's rows are the rows of one matrix. A leaf's keys and values are read into L2 once for all of them,
# and multiplied by a part of them at a time, whose scores stay there too. Codes of int8 become bf16 before that, or for few
# rows meanwhile, which is the same arithmetic.
# Task = item * KV heads + KV head.

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
                       int64_t n_tiles, int64_t k_tiles, float *c, int64_t ldc, const ellm_bf16 *next)

cdef extern from "attend_codes.h" nogil:
    enum:
        CODES_FEW
    void tile_codes(const ellm_bf16 *a, int64_t lda, int rows, const char *b, int64_t b_n, int64_t b_k, int n_tiles,
                    int k_tiles, float *c, int64_t ldc, const char *next)

cdef extern from "merge.h" nogil:
    void merge_scales(float *max, float *sum, const float *part_max, const float *part_sum, float *old, float *new,
                      int64_t rows)
    void merge_row(float *o, const float *part, float old, float new, int64_t n)

cdef enum:
    VALUE_TILES = 4  # column tiles of values that are made of keys at a time: 64 KiB, records.py counts them
    FOLD_PART = 64  # folded rows that are scored at a time, or twice as many of values in keys: records.py counts them
    MAXIMA = 4  # rows whose maxima are found before their exponentials, as a maximum is long in coming


# Part `part` of `count` things cut into `parts`: [first, first + size), which may be empty.
cdef struct Part:
    int64_t first
    int64_t size


cdef inline Part part_of(int64_t count, int64_t part, int64_t parts) noexcept nogil:
    cdef int64_t most = (count + parts - 1) // parts
    cdef Part found
    found.first = min(part * most, count)
    found.size = min(most, count - found.first)
    return found


# One task: F = item.rows * heads folded rows, row f = (position f // heads, head first + f % heads).
cdef struct Fold:
    int64_t rows          # F; every matrix below has F or P rows, rounded up to 16
    int64_t part_rows     # P
    int64_t heads
    int64_t first
    int64_t leaf          # keys of the leaf at hand
    const ellm_bf16 *keys    # its tiles of the KV head
    const ellm_bf16 *values  # the same, if they are kept
    const char *key_codes    # in int8 and for few rows these are read instead, else they are NULL
    const char *value_codes
    const char *next         # keys of the next leaf
    int64_t q_stride
    int64_t s_stride
    int64_t o_stride
    ellm_bf16 *q          # [F, q_stride] from head_dim on zero
    float *scores         # [P, s_stride] of the keys of the leaf
    ellm_bf16 *p          # [P, s_stride]
    float *part           # [P, o_stride] numerator of the leaf
    float *part_max       # [P]
    float *part_sum       # [P]
    float *o              # [F, o_stride] numerator of the span so far
    float *max            # [F]
    float *sum            # [F]
    float *total          # [F, o_stride] numerator of the spans before
    float *total_max      # [F]
    float *total_sum      # [F]
    ellm_bf16 *tiles      # [VALUE_TILES][ELLM_SPLIT / ELLM_TILE_K] of values that are in keys, or a leaf of codes expanded
    float *scales         # [2][ELLM_SPLIT] of keys and values in int8


# Lays the matrices of a task out in scratch; records.py counts the same.
cdef inline Fold fold_layout(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, int64_t kv_head, Part heads
) noexcept nogil:
    cdef int64_t rows, part
    cdef Fold fold
    fold.heads = heads.size
    fold.first = kv_head * (op.heads // op.kv_heads) + heads.first
    fold.rows = item.rows * fold.heads
    fold.q_stride = panel_stride(k_tiles_of(op.head_dim))
    fold.o_stride = ELLM_TILE_N * n_tiles_of(op.value_dim)
    rows = ELLM_TILE_N * n_tiles_of(fold.rows)
    fold.part_rows = 2 * FOLD_PART if op.values_in_keys else FOLD_PART  # so that fewer make the same values
    part = min(rows, fold.part_rows)
    fold.scores = <float *> scratch_memory(task)
    fold.part = fold.scores + part * panel_stride(ELLM_SPLIT // ELLM_TILE_K)
    fold.o = fold.part + part * fold.o_stride
    fold.total = fold.o + rows * fold.o_stride
    fold.p = <ellm_bf16 *> (fold.total + rows * fold.o_stride)
    fold.q = fold.p + part * panel_stride(ELLM_SPLIT // ELLM_TILE_K)
    fold.part_max = <float *> (fold.q + rows * fold.q_stride)
    fold.part_sum = fold.part_max + part
    fold.max = fold.part_sum + part
    fold.sum = fold.max + rows
    fold.total_max = fold.sum + rows
    fold.total_sum = fold.total_max + rows
    fold.scales = fold.total_sum + rows
    fold.tiles = <ellm_bf16 *> (fold.scales + 2 * ELLM_SPLIT)
    return fold


cdef inline const char *keys_at(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, int64_t kv_head, int64_t key
) noexcept nogil:
    cdef const char *block = cache_block(task.step, item.slot, key // ELLM_SPLIT, op.block_stride)
    cdef int64_t bytes = cache_key_bytes(op.head_dim) if op.int8 else 2 * ELLM_TILE * k_tiles_of(op.head_dim)
    return block + op.keys + kv_head * op.key_stride + key % ELLM_SPLIT // ELLM_TILE_N * bytes


cdef inline const char *values_at(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, int64_t kv_head, int64_t key
) noexcept nogil:
    cdef const char *block = cache_block(task.step, item.slot, key // ELLM_SPLIT, op.block_stride)
    cdef int64_t bytes = cache_value_bytes(op.value_dim) if op.int8 else 2 * ELLM_TILE * n_tiles_of(op.value_dim)
    return block + op.values + kv_head * op.value_stride + key % ELLM_SPLIT // ELLM_TILE_K * bytes


# Goes to a leaf in int8 of `count` groups of values. For more than few rows they become bf16 tiles first.
cdef inline void fold_codes(
    const ellm_attend *op, const char *keys, const char *values, int64_t count, Fold *fold
) noexcept nogil:
    cdef int64_t key_codes = k_tiles_of(op.head_dim) * ELLM_TILE, value_codes = n_tiles_of(op.value_dim) * ELLM_TILE
    cdef int64_t key_bytes = cache_key_bytes(op.head_dim), value_bytes = cache_value_bytes(op.value_dim)
    fold.key_codes = fold.value_codes = NULL
    if fold.rows <= CODES_FEW:
        fold.key_codes = keys
        fold.value_codes = values
        cache_scales_prefetch(keys, 2 * count, key_bytes, ELLM_TILE_N)
        cache_scales_prefetch(values, count, value_bytes, ELLM_TILE_K)
        return
    fold.keys = fold.tiles
    fold.values = fold.tiles + ELLM_SPLIT // ELLM_TILE_N * key_codes
    cache_expand(keys, 2 * count, key_bytes, key_codes, <ellm_bf16 *> fold.keys, 2 * key_bytes)
    cache_expand(values, count, value_bytes, value_codes, <ellm_bf16 *> fold.values, value_bytes)
    cache_scales(keys, 2 * count, key_bytes, ELLM_TILE_N, fold.scales)
    cache_scales(values, count, value_bytes, ELLM_TILE_K, fold.scales + ELLM_SPLIT)


# Goes to the leaf that begins at `key`.
cdef inline void fold_leaf(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, int64_t kv_head, int64_t key, Fold *fold
) noexcept nogil:
    cdef const char *keys = keys_at(task, op, item, kv_head, key)
    cdef const char *values = values_at(task, op, item, kv_head, key)
    cdef int64_t seen = k_tiles_of(item.position + item.rows - key)
    fold.leaf = ELLM_LEAF if key < ELLM_SPAN else ELLM_SPLIT
    fold.s_stride = panel_stride(fold.leaf // ELLM_TILE_K)
    key += fold.leaf
    fold.next = keys_at(task, op, item, kv_head, key) if key < item.key_end else keys
    if op.int8:
        fold_codes(op, keys, values, min(max(0, seen), fold.leaf // ELLM_TILE_K), fold)
    else:
        fold.keys = <const ellm_bf16 *> keys
        fold.values = <const ellm_bf16 *> values


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


# Begins a span: nothing is merged yet.
cdef inline void fold_nothing(const Fold *fold, float *o, float *max, float *sum) noexcept nogil:
    cdef int64_t f
    memset(o, 0, 4 * fold.rows * fold.o_stride)
    for f in range(fold.rows):
        max[f] = -1e30
        sum[f] = 0


# Copies the queries of the item's rows and the task's heads, zero padded.
cdef inline void fold_queries(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, const Fold *fold
) noexcept nogil:
    cdef int64_t f, offset, n = op.head_dim
    for f in range(fold.rows):
        offset = (item.row - task.row + f // fold.heads) * op.q_stride
        offset += (fold.first + f % fold.heads) * op.q_head_stride
        fold_query(op, task.section + op.q, offset, fold.q + f * fold.q_stride)
        memset(fold.q + f * fold.q_stride + n, 0, 2 * (fold.q_stride - n))


# The maximum of row f of a part over its keys [low, high) of a leaf, whose scores are there for [begin, end); those of
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


# scores = q . K of the keys [begin, end) of a leaf, for the folded rows [row, row + rows).
cdef inline void fold_scores(
    const ellm_attend *op, const Fold *fold, int64_t row, int64_t rows, int64_t begin, int64_t end
) noexcept nogil:
    cdef int64_t key_tiles = k_tiles_of(op.head_dim), first = begin // ELLM_TILE_N, count = end // ELLM_TILE_N - first
    cdef int64_t n_tiles = n_tiles_of(op.value_dim)
    cdef int64_t key_bytes = cache_key_bytes(op.head_dim), value_bytes = cache_value_bytes(op.value_dim)
    cdef const ellm_bf16 *q = fold.q + row * fold.q_stride
    cdef const char *keys
    cdef const char *values
    if op.int8 and fold.key_codes != NULL:
        keys = fold.key_codes + first * key_bytes
        values = fold.value_codes + first // 2 * value_bytes
        tile_codes(
            q, fold.q_stride, <int> rows, keys, key_bytes, ELLM_TILE, <int> count, <int> key_tiles, fold.scores + begin,
            fold.s_stride, values,
        )
        cache_scales(keys, count, key_bytes, ELLM_TILE_N, fold.scales + begin)
        cache_scales(values, count // 2, value_bytes, ELLM_TILE_K, fold.scales + ELLM_SPLIT + begin)
    else:
        attend_matmul(
            q, fold.q_stride, rows, fold.keys + first * key_tiles * ELLM_TILE, key_tiles * ELLM_TILE, ELLM_TILE, count,
            key_tiles, fold.scores + begin, fold.s_stride, fold.values + first // 2 * n_tiles * ELLM_TILE,
        )


# part = p . V over the columns [begin, end) of a leaf, for `rows` rows, of values that are kept.
cdef inline void fold_values(
    const ellm_attend *op, const Fold *fold, int64_t rows, int64_t begin, int64_t end
) noexcept nogil:
    cdef int64_t n_tiles = n_tiles_of(op.value_dim), first = begin // ELLM_TILE_K, count = end // ELLM_TILE_K - first
    cdef int64_t bytes = cache_value_bytes(op.value_dim)
    if op.int8 and fold.value_codes != NULL:
        tile_codes(
            fold.p + begin, fold.s_stride, <int> rows, fold.value_codes + first * bytes, ELLM_TILE, bytes, <int> n_tiles,
            <int> count, fold.part, fold.o_stride, fold.next,
        )
    else:
        attend_matmul(
            fold.p + begin, fold.s_stride, rows, fold.values + first * n_tiles * ELLM_TILE, ELLM_TILE,
            n_tiles * ELLM_TILE, n_tiles, count, fold.part, fold.o_stride, <const ellm_bf16 *> fold.next,
        )


# The same of values that are in the keys.
cdef inline void fold_values_of_keys(
    const ellm_attend *op, const Fold *fold, int64_t rows, int64_t begin, int64_t end
) noexcept nogil:
    cdef int64_t n_tiles = n_tiles_of(op.value_dim), k_tiles = (end - begin) // ELLM_TILE_K, part, n, count
    cdef int64_t key_tiles = k_tiles_of(op.head_dim)
    cdef const ellm_bf16 *keys = fold.keys + begin // ELLM_TILE_N * key_tiles * ELLM_TILE
    for part in range((n_tiles + VALUE_TILES - 1) // VALUE_TILES):
        n = part * VALUE_TILES
        count = min(VALUE_TILES, n_tiles - n)
        cache_values_of_keys(keys + n // 2 * ELLM_TILE, key_tiles, k_tiles, count, fold.tiles)
        attend_matmul(
            fold.p + begin, fold.s_stride, rows, fold.tiles, k_tiles * ELLM_TILE, ELLM_TILE,
            count, k_tiles, fold.part + ELLM_TILE_N * n, fold.o_stride, fold.tiles,
        )


# The leaf at hand, which begins at `first`, and a part: part, part_max and part_sum of the folded rows [row, row + rows).
cdef inline void fold_part(
    const ellm_attend *op, const ellm_attend_item *item, int64_t first, const Fold *fold, int64_t row, int64_t rows
) noexcept nogil:
    cdef int64_t begin, end, position
    position = item.position + row // fold.heads
    begin = max(position - op.window + 1 - first, 0) // ELLM_TILE_K * ELLM_TILE_K if op.window else 0
    position = item.position + (row + rows - 1) // fold.heads
    end = min(ELLM_TILE_K * k_tiles_of(position + 1 - first), fold.leaf)
    if begin >= end:
        memset(fold.part_sum, 0, 4 * rows)
        return
    fold_scores(op, fold, row, rows, begin, end)
    fold_softmax(op, item, fold, row, rows, first, begin, end)
    if op.values_in_keys:
        fold_values_of_keys(op, fold, rows, begin, end)
    else:
        fold_values(op, fold, rows, begin, end)


# Adds the parts of `rows` rows, at most ELLM_FOLD, to what is merged of them; numerators are [rows, stride].
cdef inline void merge_parts(
    float *o, float *max, float *sum, const float *part, const float *part_max, const float *part_sum, int64_t rows,
    int64_t stride, int64_t n
) noexcept nogil:
    cdef float old[ELLM_FOLD]
    cdef float new[ELLM_FOLD]
    cdef int64_t f
    merge_scales(max, sum, part_max, part_sum, old, new, rows)
    for f in range(rows):
        merge_row(o + f * stride, part + f * stride, old[f], new[f], n)


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


# Where the partial of a folded row is, as task.h lays them out.
cdef inline float *partial_of(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, const Fold *fold, int64_t f, int64_t unit
) noexcept nogil:
    cdef int64_t row = item.partial + f // fold.heads * item.units, head = fold.first + f % fold.heads
    return task.step.partials + (row * op.heads + head * item.units + unit) * (op.value_dim + 2)


# Adds a leaf of the folded rows [row, row + rows) to the span, or stores it for `merge`.
cdef inline void keep_leaf(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, int64_t unit, const Fold *fold,
    int64_t row, int64_t rows
) noexcept nogil:
    cdef int64_t f, n = op.value_dim
    cdef float *out
    if item.partial < 0 or item.folded:
        merge_parts(
            fold.o + row * fold.o_stride, fold.max + row, fold.sum + row, fold.part, fold.part_max, fold.part_sum, rows,
            fold.o_stride, n,
        )
        return
    for f in range(rows):
        out = partial_of(task, op, item, fold, row + f, unit)
        memcpy(out, fold.part + f * fold.o_stride, 4 * n)
        out[n] = fold.part_max[f]
        out[n + 1] = fold.part_sum[f]


# Stores the span for `merge`.
cdef inline void store_span(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, const Fold *fold
) noexcept nogil:
    cdef int64_t f, n = op.value_dim
    cdef float *out
    for f in range(fold.rows):
        out = partial_of(task, op, item, fold, f, item.unit)
        memcpy(out, fold.o + f * fold.o_stride, 4 * n)
        out[n] = fold.max[f]
        out[n + 1] = fold.sum[f]


# Adds the span to those before, and begins another.
cdef inline void end_span(const ellm_attend *op, const Fold *fold) noexcept nogil:
    merge_parts(
        fold.total, fold.total_max, fold.total_sum, fold.o, fold.max, fold.sum, fold.rows, fold.o_stride, op.value_dim,
    )
    fold_nothing(fold, fold.o, fold.max, fold.sum)


cdef inline void write_outputs(
    const ellm_task *task, const ellm_attend *op, const ellm_attend_item *item, const Fold *fold, float *o,
    const float *max, const float *sum
) noexcept nogil:
    cdef int64_t f, head, n = op.value_dim
    cdef char *out
    for f in range(fold.rows):
        out = row_of(task.section + op.out, item.row - task.row + f // fold.heads, op.out_stride, op.out_bf16)
        head = fold.first + f % fold.heads
        write_quotient(o + f * fold.o_stride, max[f], sum[f], <const float *> op.sinks, head, out, op.out_bf16, n)
        if head + 1 == op.heads and op.out_bf16:
            memset(<ellm_bf16 *> out + op.heads * n, 0, 2 * (op.out_stride - op.heads * n))


cdef void attend(const ellm_task *task) noexcept nogil:
    cdef const ellm_attend *op = <const ellm_attend *> task.args
    cdef const ellm_attend_item *item = task.step.items[op.window_class]
    cdef int64_t kv_head = task.index % op.kv_heads, key, unit, row, rows
    cdef bint spans
    cdef Part heads
    cdef Fold fold
    item += task.step.item_begin[op.window_class][task.block] + task.index // op.kv_heads
    heads = part_of(op.heads // op.kv_heads, item.head_part, item.head_parts)
    if heads.size == 0:
        return
    fold = fold_layout(task, op, item, kv_head, heads)
    fold_queries(task, op, item, &fold)
    fold_nothing(&fold, fold.o, fold.max, fold.sum)
    spans = item.partial < 0 and item.key_begin // ELLM_SPAN < (item.key_end - 1) // ELLM_SPAN
    if spans:
        fold_nothing(&fold, fold.total, fold.total_max, fold.total_sum)
    key, unit = item.key_begin, item.unit
    while key < item.key_end:
        if spans and key % ELLM_SPAN == 0:
            end_span(op, &fold)
        fold_leaf(task, op, item, kv_head, key, &fold)
        row = 0
        while row < fold.rows:
            rows = min(fold.part_rows, fold.rows - row)
            fold_part(op, item, key, &fold, row, rows)
            keep_leaf(task, op, item, unit, &fold, row, rows)
            row += rows
        key += fold.leaf
        unit += 1
    if spans:
        end_span(op, &fold)
        write_outputs(task, op, item, &fold, fold.total, fold.total_max, fold.total_sum)
    elif item.partial < 0:
        write_outputs(task, op, item, &fold, fold.o, fold.max, fold.sum)
    elif item.folded:
        store_span(task, op, item, &fold)
