/* Products by AMX with weights that are expanded to bf16 tiles: the sums of tile_amx.h over expanded tiles, in the same order.
 *
 * A tile load waits until the stores before it are in L1, and the unit that multiplies is not the one that expands. So tiles
 * are expanded one by one, between the multiplications of others, which the CPU then does at the same time. Many rows
 * multiply a part of two columns, which L1 has room for once: behind its last use each tile makes place for the one of the
 * next part.
 */
#ifndef ELLM_EXPAND_AMX_H
#define ELLM_EXPAND_AMX_H

#define AMX_COLUMNS 4      /* column tiles that few rows read side by side; half of two terms, which stay in L1 then */
#define AMX_AHEAD 3072     /* bytes of each that prefetch runs ahead of them */
#define AMX_PART 16        /* most k tiles that many rows multiply while the next ones are expanded */
#define AMX_SHALLOW 8      /* of fewer rows than AMX_MANY, which do not wait for C but for memory */
#define AMX_MANY 256

/* C of column n += A . B: tiles 0-3 are C, 4 is A, 5-7 B. */
BLOCKED void amx_multiply_tile(const int n, const ellm_bf16 *b) {
    __asm__ volatile("" ::: "memory"); /* gcc's tile loads do not say that they read memory */
    switch (n) {
    case 0:
        _tile_loadd(5, b, TILE_LINE);
        _tile_dpbf16ps(0, 4, 5);
        break;
    case 1:
        _tile_loadd(6, b, TILE_LINE);
        _tile_dpbf16ps(1, 4, 6);
        break;
    case 2:
        _tile_loadd(7, b, TILE_LINE);
        _tile_dpbf16ps(2, 4, 7);
        break;
    default:
        _tile_loadd(5, b, TILE_LINE);
        _tile_dpbf16ps(3, 4, 5);
    }
    __asm__ volatile("" ::: "memory");
}

/* The sums of N column tiles in tiles 0-3: nothing yet, and to C. */
static inline void amx_begin(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

BLOCKED void amx_end(const int N, float *c, int64_t ldc) {
    _tile_stored(0, c, 4 * ldc);
    if (N > 1) _tile_stored(1, c + ELLM_TILE_N, 4 * ldc);
    if (N > 2) _tile_stored(2, c + 2 * ELLM_TILE_N, 4 * ldc);
    if (N > 3) _tile_stored(3, c + 3 * ELLM_TILE_N, 4 * ldc);
}

/* C = A . W for at most TILE_M rows and N column tiles, `stride` bytes apart. A tile is multiplied behind the expansion of
 * the next one, which the CPU goes on with while the load waits. Second terms are added after EXPAND_SHALLOW first ones.
 * The format and N are constants where this is inlined. */
BLOCKED void amx_few_rows(const int64_t format, const int N, const ellm_bf16 *a, int64_t lda, const char *columns,
                          int64_t stride, int k_tiles, float *c, int64_t ldc, ellm_bf16 *tiles) {
    const int terms = (int)ELLM_FORMATS[format].terms, slots = terms > 1 || N == 1 ? EXPAND_SHALLOW : 1;
    const ellm_bf16 *last = 0; /* the tile that is not multiplied yet */
    amx_begin();
    for (int k = 0; k < k_tiles; k++) {
        int slot = k % slots;
        ellm_bf16 *high = tiles + slot * N * ELLM_TILE, *low = high + slots * N * ELLM_TILE;
        int64_t end = (k_tiles - k) * ELLM_FORMATS[format].tile;
        int64_t ahead = AMX_AHEAD + (AMX_AHEAD < end ? 0 : (N - 1) * stride); /* past the end: in the next columns */
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) {
            expand_column(columns + n * stride, format, k, 1, high + n * ELLM_TILE, low + n * ELLM_TILE, ahead);
            if (last) amx_multiply_tile((n + N - 1) % N, last);
            if (n == 0) _tile_loadd(4, a + ELLM_TILE_K * k, 2 * lda);
            last = high + n * ELLM_TILE;
        }
        if (terms == 1 || (slot < slots - 1 && k < k_tiles - 1)) continue;
        amx_multiply_tile(N - 1, last);
        last = 0;
        for (int back = slot; back >= 0; back--) {
            _tile_loadd(4, a + ELLM_TILE_K * (k - back), 2 * lda);
#pragma GCC unroll 4
            for (int n = 0; n < N; n++) amx_multiply_tile(n, low + (n - back * N) * ELLM_TILE);
        }
    }
    if (last) amx_multiply_tile(N - 1, last);
    amx_end(N, c, ldc);
}

/* The same for n_tiles column tiles. */
typedef void (*amx_few)(const ellm_bf16 *a, int64_t lda, const char *weight, int64_t stride, int n_tiles, int k_tiles,
                        float *c, int64_t ldc, ellm_bf16 *tiles);

#define AMX_FEW(NAME, name)                                                                                              \
    static void amx_few_##name(const ellm_bf16 *a, int64_t lda, const char *weight, int64_t stride, int n_tiles,         \
                               int k_tiles, float *c, int64_t ldc, ellm_bf16 *tiles) {                                   \
        const int N = AMX_COLUMNS / (int)ELLM_FORMATS[ELLM_##NAME].terms;                                                \
        int n = 0;                                                                                                       \
        for (; n + N <= n_tiles; n += N)                                                                                 \
            amx_few_rows(ELLM_##NAME, N, a, lda, weight + n * stride, stride, k_tiles, c + ELLM_TILE_N * n, ldc, tiles); \
        for (; n < n_tiles; n++)                                                                                         \
            amx_few_rows(ELLM_##NAME, 1, a, lda, weight + n * stride, stride, k_tiles, c + ELLM_TILE_N * n, ldc, tiles); \
    }
ELLM_EXPANDED(AMX_FEW)
ELLM_BLOCKED(AMX_FEW)
#undef AMX_FEW
#define AMX_FEW(NAME, name) [ELLM_##NAME] = amx_few_##name,
static const amx_few AMX_FEWS[] = {ELLM_EXPANDED(AMX_FEW) ELLM_BLOCKED(AMX_FEW)};
#undef AMX_FEW

/* Expands k tile k of a column tile, of two terms to high and low. */
typedef void (*amx_expand)(const char *column, int k, ellm_bf16 *high, ellm_bf16 *low);

#define AMX_EXPAND(NAME, name)                                                                         \
    static void amx_expand_##name(const char *column, int k, ellm_bf16 *high, ellm_bf16 *low) {        \
        expand_column(column, ELLM_##NAME, k, 1, high, low, 0);                                        \
    }
ELLM_EXPANDED(AMX_EXPAND)
ELLM_BLOCKED(AMX_EXPAND)
#undef AMX_EXPAND
#define AMX_EXPAND(NAME, name) [ELLM_##NAME] = amx_expand_##name,
static const amx_expand AMX_EXPANDS[] = {ELLM_EXPANDED(AMX_EXPAND) ELLM_BLOCKED(AMX_EXPAND)};
#undef AMX_EXPAND

/* A packed weight's column tiles, `stride` bytes apart. */
typedef struct amx_weight {
    const char *columns;
    int64_t stride, format;
    int n_tiles, k_tiles, terms;
    int depth; /* k tiles of a part */
    amx_expand expand;
} amx_weight;

/* Where many rows are: at k tiles [k, k + count) of column tile `column` and perhaps the one behind it. */
typedef struct amx_part {
    int column, columns, k, count;
} amx_part;

/* What is fetched into L2 while a part is multiplied: `left` lines more of either half of two columns, `each` of them at a
 * step. */
typedef struct amx_fetch {
    const char *at;
    int64_t column, half;
    int left, each;
} amx_fetch;

static inline void amx_fetch_lines(amx_fetch *fetch) {
    for (int line = 0; line < fetch->each && fetch->left > 0; line++, fetch->left--, fetch->at += TILE_LINE) {
        TILE_FETCH(fetch->at);
        TILE_FETCH(fetch->at + fetch->column);
        TILE_FETCH(fetch->at + fetch->half);
        TILE_FETCH(fetch->at + fetch->half + fetch->column);
    }
}

/* Expands k tile k of a part to `tiles`, [column][AMX_PART], of two terms [column][term][AMX_PART / 2]. */
static inline void amx_expand_tiles(const amx_weight *w, amx_part part, int k, ellm_bf16 *tiles) {
    for (int n = 0; n < part.columns; n++) {
        ellm_bf16 *high = tiles + (n * AMX_PART + k) * ELLM_TILE;
        w->expand(w->columns + (part.column + n) * w->stride, part.k + k, high, high + AMX_PART / 2 * ELLM_TILE);
    }
    __asm__ volatile("" ::: "memory");
}

/* What a block has left in tiles 0-3: R row tiles x N column tiles of C, to be stored at c. None if c is NULL. */
typedef struct amx_left {
    float *c;
    int rows, columns;
} amx_left;

/* Tile `tile` of C, at `offset` of a block's, takes the place of the one that is left from the block before. */
#define AMX_NEXT_C(tile, offset)     \
    if (step == 0 && last != c) {    \
        TILE_NEXT_C(tile, offset);   \
    }

/* R row tiles x N column tiles over `steps` expanded tiles, A's being `count` and the same again: tiles 0-3 are C, 4 and 5 A,
 * 6 and 7 B. At the first step they take the place of the block before, if it is of the same size, which hides the time that
 * its stores take. A is loaded with the hint that it is not used again, or it would push B out of L1. The tiles of `next`, a
 * part of no tiles before the last block of rows, are expanded in place of those of the step before, between a step's loads
 * and its products: loads behind stores may wait for them, products that have their tiles do not. R and N are constants
 * where this is inlined. */
BLOCKED amx_left amx_block(const int R, const int N, const ellm_bf16 *a, int64_t lda, ellm_bf16 *tiles, const amx_weight *w,
                           int count, float *c, int64_t ldc, int accumulate, amx_left left, amx_part next, amx_fetch *fetch) {
    const ellm_bf16 *b = tiles, *end = a + ELLM_TILE_K * count;
    const int steps = w->terms * count, first = steps - count; /* a tile's last use: of its second term */
    float *last = left.rows == R && left.columns == N ? left.c : 0;
    if (!last) tile_store(left.rows, left.columns, left.c, ldc);
    for (int step = 0; step < steps; step++, a += ELLM_TILE_K, b += ELLM_TILE) {
        if (a == end) { /* second terms */
            a -= ELLM_TILE_K * count;
            b += (AMX_PART / 2 - count) * ELLM_TILE;
        }
        _tile_loadd(6, b, TILE_LINE);
        _tile_stream_loadd(4, a, 2 * lda);
        if (N > 1) _tile_loadd(7, b + AMX_PART * ELLM_TILE, TILE_LINE);
        if (R > 1) _tile_stream_loadd(5, a + TILE_M * lda, 2 * lda);
        if (step > first && step - first <= next.count) amx_expand_tiles(w, next, step - first - 1, tiles);
        AMX_NEXT_C(0, 0)
        _tile_dpbf16ps(0, 4, 6);
        if (N > 1) {
            AMX_NEXT_C(1, ELLM_TILE_N)
            _tile_dpbf16ps(1, 4, 7);
        }
        if (R > 1) {
            AMX_NEXT_C(2, TILE_M * ldc)
            _tile_dpbf16ps(2, 5, 6);
        }
        if (R > 1 && N > 1) {
            AMX_NEXT_C(3, TILE_M * ldc + ELLM_TILE_N)
            _tile_dpbf16ps(3, 5, 7);
        }
        amx_fetch_lines(fetch);
    }
    if (count <= next.count) amx_expand_tiles(w, next, count - 1, tiles);
    return (amx_left){c, R, N};
}

/* C (= or +=) A . W for all rows and a part that is expanded to `tiles`, where the next one is then. Takes and returns what
 * is left. */
static inline amx_left amx_multiply_part(const ellm_bf16 *a, int64_t lda, int rows, const amx_weight *w, amx_part part,
                                         amx_part next, ellm_bf16 *tiles, float *c, int64_t ldc, amx_left left,
                                         amx_fetch *fetch) {
    const amx_part none = {0, 0, 0, 0};
    a += ELLM_TILE_K * part.k;
    c += ELLM_TILE_N * part.column;
    for (int row = 0; row < rows; row += 2 * TILE_M) {
        const ellm_bf16 *x = a + row * lda;
        float *out = c + row * ldc;
        amx_part then = rows - row > 2 * TILE_M ? none : next;
        if (rows - row > TILE_M && part.columns > 1)
            left = amx_block(2, 2, x, lda, tiles, w, part.count, out, ldc, part.k, left, then, fetch);
        else if (rows - row > TILE_M)
            left = amx_block(2, 1, x, lda, tiles, w, part.count, out, ldc, part.k, left, then, fetch);
        else if (part.columns > 1)
            left = amx_block(1, 2, x, lda, tiles, w, part.count, out, ldc, part.k, left, then, fetch);
        else
            left = amx_block(1, 1, x, lda, tiles, w, part.count, out, ldc, part.k, left, then, fetch);
    }
    for (int k = part.count; k < next.count; k++) amx_expand_tiles(w, next, k, tiles);
    return left;
}

/* Part `number` of a weight, in the order in which tile_pairs passes over parts: A that stays in L2 is read by one pair of
 * column tiles after the other, of A that does not a part is read by all. Behind the last one: those of the columns that
 * follow, of no tiles. */
static inline amx_part amx_part_at(const amx_weight *w, int number, int stays) {
    int depth = w->depth, parts = (w->k_tiles + depth - 1) / depth, pairs = (w->n_tiles + 1) / 2;
    int behind = number >= parts * pairs;
    number -= behind ? parts * pairs : 0;
    int k = depth * (stays ? number % parts : number / pairs), column = 2 * (stays ? number / parts : number % pairs);
    if (behind) return (amx_part){w->n_tiles + column, 0, k, 0};
    int left = w->k_tiles - k;
    return (amx_part){column, w->n_tiles - column < 2 ? 1 : 2, k, left < depth ? left : depth};
}

/* The fetches of a part, or of what a weight like this one has at the columns that follow, in so many steps. */
static inline amx_fetch amx_fetch_part(const amx_weight *w, amx_part part, int steps) {
    int64_t bytes = column_bytes(w->format, w->depth);
    int lines = (int)((bytes / 2 + TILE_LINE - 1) / TILE_LINE);
    const char *at = w->columns + part.column * w->stride + column_bytes(w->format, part.k);
    return (amx_fetch){at, w->stride, bytes / 2, lines, (lines + steps - 1) / steps};
}

/* C = A . W for more than TILE_M rows. */
static inline void amx_many_rows(const ellm_bf16 *a, int64_t lda, int rows, const amx_weight *w, float *c, int64_t ldc,
                                 ellm_bf16 *tiles) {
    int stays = (int64_t)rows * w->k_tiles * TILE_LINE <= TILE_A_L2, blocks = (rows + 2 * TILE_M - 1) / (2 * TILE_M);
    amx_part part = amx_part_at(w, 0, stays);
    amx_left left = {0, 0, 0};
    for (int k = 0; k < part.count; k++) amx_expand_tiles(w, part, k, tiles);
    for (int number = 1; part.count > 0; number++) {
        amx_part next = amx_part_at(w, number, stays);
        amx_fetch fetch = amx_fetch_part(w, amx_part_at(w, number + 1, stays), blocks * w->terms * part.count);
        left = amx_multiply_part(a, lda, rows, w, part, next, tiles, c, ldc, left, &fetch);
        part = next;
    }
    tile_store(left.rows, left.columns, left.c, ldc);
}

/* C[rows][ELLM_TILE_N * n_tiles] = A[rows][ELLM_TILE_K * k_tiles] . W, of a format that is expanded. Whole tiles of TILE_M rows
 * are read from A and written to C. `tiles` is ELLM_EXPAND bytes. */
static inline void expand_matmul(const ellm_bf16 *a, int64_t lda, int rows, const char *weight, int64_t format, int n_tiles,
                                 int k_tiles, float *c, int64_t ldc, ellm_bf16 *tiles) {
    int64_t stride = column_bytes(format, k_tiles);
    int terms = (int)ELLM_FORMATS[format].terms, depth = rows < AMX_MANY ? AMX_SHALLOW : AMX_PART;
    if (terms > 1) depth = EXPAND_SHALLOW; /* the order of the sum, whatever the rows */
    amx_weight w = {weight, stride, format, n_tiles, k_tiles, terms, depth, AMX_EXPANDS[format]};
    if (rows > TILE_M)
        amx_many_rows(a, lda, rows, &w, c, ldc, tiles);
    else
        AMX_FEWS[format](a, lda, weight, stride, n_tiles, k_tiles, c, ldc, tiles);
}

#endif
