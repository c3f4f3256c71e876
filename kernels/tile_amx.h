/* Tile products by TDPBF16PS: 2 x 2 blocks of tiles, in parts of k whose sums go through C.
 *
 * A TDPBF16PS takes 16 cycles, a tile from L1 8 and from L2 about 20. So a part of two columns of B stays in L1 while all
 * rows of A pass by from L2; those are loaded with the hint that they are not used again, or they would push B out. What
 * a block leaves in its tiles is stored between the first products of the next block, which hides the time that takes.
 */
#ifndef ELLM_TILE_H
#define ELLM_TILE_H
#include <immintrin.h>

#include "vector.h"

#define TILE_NEAR 16           /* most k tiles of a B that is in a cache: keys and values of a split, expanded weights */
#define TILE_A_L1 (16 << 10)   /* bytes of A that stay in L1 beside the columns */
#define TILE_A_L2 (1 << 20)    /* and in L2: half of it */
#define TILE_AHEAD 2           /* k tiles that prefetch runs ahead of a single row tile */
#define TILE_M 16              /* rows of A and C in a tile */
#define TILE_LINE 64           /* bytes of a row of any tile, a cache line */
#define TILE_LINES ELLM_TILE_PAIRS /* of a tile of B */

/* Palette 1, all eight tiles TILE_M rows of TILE_LINE bytes. The whole struct is the operand: gcc 12's _tile_loadconfig
 * claims to read 8 bytes of it, so that stores to the rest may be dropped. */
static inline void tile_enter(void) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        config.bytes[tile] = TILE_LINE;
        config.rows[tile] = TILE_M;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
}

static inline void tile_leave(void) { _tile_release(); }

static inline void tile_prefetch(const ellm_bf16 *tile) {
    for (int line = 0; line < TILE_LINES; line++) _mm_prefetch((const char *)(tile + ELLM_TILE_ROW * line), _MM_HINT_T0);
}

/* What is fetched into L2 while a part of `k_tiles` is multiplied: as many k tiles of two columns, in four streams (either
 * half of both), each in order of memory, `lines` lines (a power of two) of each with each k tile of each block. `done`
 * are the k tiles of the blocks before. */
typedef struct tile_fetch {
    const ellm_bf16 *part;
    int k_tiles, lines, done;
} tile_fetch;

#define TILE_FETCH(line) __asm__ volatile("prefetcht1 %0" ::"m"(*(line))) /* gcc 12 drops loops of _mm_prefetch */

static inline void tile_fetch_lines(tile_fetch fetch, int64_t b_n, int64_t b_k, int k) {
    int line = (fetch.done + k) * fetch.lines;
    const char *at = (const char *)(fetch.part + line / TILE_LINES * b_k + line % TILE_LINES * ELLM_TILE_ROW);
    int64_t column = b_n * (int64_t)sizeof(ellm_bf16), half = (fetch.k_tiles + 1) / 2 * b_k * (int64_t)sizeof(ellm_bf16);
    for (const char *end = at + TILE_LINE * fetch.lines; at < end; at += TILE_LINE) {
        TILE_FETCH(at);
        TILE_FETCH(at + column);
        TILE_FETCH(at + half);
        TILE_FETCH(at + column + half);
    }
}

#define TILE_INLINE static inline __attribute__((always_inline))
#define TILE_LOAD_A(tile, from, stride)      \
    if (passes)                              \
        _tile_stream_loadd(tile, from, stride); \
    else                                     \
        _tile_loadd(tile, from, stride)
#define TILE_NEXT_C(tile, offset)                                                    \
    if (last) _tile_stored(tile, last + (offset), 4 * ldc);                          \
    if (accumulate)                                                                  \
        _tile_loadd(tile, c + (offset), 4 * ldc);                                    \
    else                                                                             \
        _tile_zero(tile)

/* Stores at c, if it is not NULL, what tiles 0-3 hold of a block of up to 2 x 2 tiles of C. */
TILE_INLINE void tile_store(int row_tiles, int column_tiles, float *c, int64_t ldc) {
    if (!c) return;
    _tile_stored(0, c, 4 * ldc);
    if (column_tiles > 1) _tile_stored(1, c + ELLM_TILE_N, 4 * ldc);
    if (row_tiles > 1) _tile_stored(2, c + TILE_M * ldc, 4 * ldc);
    if (row_tiles > 1 && column_tiles > 1) _tile_stored(3, c + TILE_M * ldc + ELLM_TILE_N, 4 * ldc);
}

/* Two row tiles x 2 column tiles: tiles 0-3 are C, 4 and 5 A, 6 and 7 B. On entry tiles 0-3 are what belongs to `last`,
 * if it is not NULL; on return, to c. Every load stands just before its first use, so that products run while the rest
 * is loaded. `passes`, a constant: A is not used again soon. */
TILE_INLINE void tile_block_2x2(const ellm_bf16 *a, int64_t lda, const ellm_bf16 *b, int64_t b_n, int64_t b_k, int k_tiles,
                                float *c, int64_t ldc, int accumulate, float *last, tile_fetch fetch, const int passes) {
    _tile_loadd(6, b, TILE_LINE);
    TILE_LOAD_A(4, a, 2 * lda);
    TILE_NEXT_C(0, 0);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + b_n, TILE_LINE);
    TILE_NEXT_C(1, ELLM_TILE_N);
    _tile_dpbf16ps(1, 4, 7);
    TILE_LOAD_A(5, a + TILE_M * lda, 2 * lda);
    TILE_NEXT_C(2, TILE_M * ldc);
    _tile_dpbf16ps(2, 5, 6);
    TILE_NEXT_C(3, TILE_M * ldc + ELLM_TILE_N);
    _tile_dpbf16ps(3, 5, 7);
    tile_fetch_lines(fetch, b_n, b_k, 0);
    for (int k = 1; k < k_tiles; k++) {
        tile_fetch_lines(fetch, b_n, b_k, k);
        _tile_loadd(6, b + k * b_k, TILE_LINE);
        TILE_LOAD_A(4, a + ELLM_TILE_K * k, 2 * lda);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + b_n + k * b_k, TILE_LINE);
        _tile_dpbf16ps(1, 4, 7);
        TILE_LOAD_A(5, a + TILE_M * lda + ELLM_TILE_K * k, 2 * lda);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

/* Three row tiles x 2 column tiles: tiles 0-5 are C, 6 is A and 7 B, and each tile of A is loaded once for either column. */
static inline void tile_block_3x2(const ellm_bf16 *a, int64_t lda, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                                  int k_tiles, float *c, int64_t ldc, int accumulate, tile_fetch fetch) {
    const ellm_bf16 *a1 = a + TILE_M * lda, *a2 = a + 2 * TILE_M * lda;
    float *c1 = c + TILE_M * ldc, *c2 = c + 2 * TILE_M * ldc;
    if (accumulate) {
        _tile_loadd(0, c, 4 * ldc);
        _tile_loadd(1, c1, 4 * ldc);
        _tile_loadd(2, c2, 4 * ldc);
        _tile_loadd(3, c + ELLM_TILE_N, 4 * ldc);
        _tile_loadd(4, c1 + ELLM_TILE_N, 4 * ldc);
        _tile_loadd(5, c2 + ELLM_TILE_N, 4 * ldc);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        _tile_zero(4);
        _tile_zero(5);
    }
    for (int k = 0; k < k_tiles; k++) {
        tile_fetch_lines(fetch, b_n, b_k, k);
        _tile_loadd(7, b + k * b_k, TILE_LINE);
        _tile_loadd(6, a + ELLM_TILE_K * k, 2 * lda);
        _tile_dpbf16ps(0, 6, 7);
        _tile_loadd(6, a1 + ELLM_TILE_K * k, 2 * lda);
        _tile_dpbf16ps(1, 6, 7);
        _tile_loadd(6, a2 + ELLM_TILE_K * k, 2 * lda);
        _tile_dpbf16ps(2, 6, 7);
        _tile_loadd(7, b + b_n + k * b_k, TILE_LINE);
        _tile_dpbf16ps(5, 6, 7);
        _tile_loadd(6, a1 + ELLM_TILE_K * k, 2 * lda);
        _tile_dpbf16ps(4, 6, 7);
        _tile_loadd(6, a + ELLM_TILE_K * k, 2 * lda);
        _tile_dpbf16ps(3, 6, 7);
    }
    _tile_stored(0, c, 4 * ldc);
    _tile_stored(1, c1, 4 * ldc);
    _tile_stored(2, c2, 4 * ldc);
    _tile_stored(3, c + ELLM_TILE_N, 4 * ldc);
    _tile_stored(4, c1 + ELLM_TILE_N, 4 * ldc);
    _tile_stored(5, c2 + ELLM_TILE_N, 4 * ldc);
}

/* One row tile x 4 column tiles, streamed side by side: tiles 0-3 are C, 4 is A, 5-7 B. */
static inline void tile_block_1x4(const ellm_bf16 *a, int64_t lda, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                                  int k_tiles, float *c, int64_t ldc, int accumulate) {
    if (accumulate) {
        _tile_loadd(0, c, 4 * ldc);
        _tile_loadd(1, c + ELLM_TILE_N, 4 * ldc);
        _tile_loadd(2, c + 2 * ELLM_TILE_N, 4 * ldc);
        _tile_loadd(3, c + 3 * ELLM_TILE_N, 4 * ldc);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int k = 0; k < k_tiles; k++) {
        const ellm_bf16 *tile = b + k * b_k;
        int next = k + TILE_AHEAD;
        const ellm_bf16 *ahead = next < k_tiles ? b + next * b_k : b + 4 * b_n + (next - k_tiles) * b_k;
        for (int n = 0; n < 4; n++) tile_prefetch(ahead + n * b_n);
        _tile_loadd(4, a + ELLM_TILE_K * k, 2 * lda);
        _tile_loadd(5, tile, TILE_LINE);
        _tile_loadd(6, tile + b_n, TILE_LINE);
        _tile_loadd(7, tile + 2 * b_n, TILE_LINE);
        _tile_dpbf16ps(0, 4, 5);
        _tile_loadd(5, tile + 3 * b_n, TILE_LINE);
        _tile_dpbf16ps(1, 4, 6);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 4, 5);
    }
    _tile_stored(0, c, 4 * ldc);
    _tile_stored(1, c + ELLM_TILE_N, 4 * ldc);
    _tile_stored(2, c + 2 * ELLM_TILE_N, 4 * ldc);
    _tile_stored(3, c + 3 * ELLM_TILE_N, 4 * ldc);
}

static inline void tile_block_1x1(const ellm_bf16 *a, int64_t lda, const ellm_bf16 *b, int64_t b_k, int k_tiles,
                                  float *c, int64_t ldc, int accumulate) {
    if (accumulate)
        _tile_loadd(0, c, 4 * ldc);
    else
        _tile_zero(0);
    for (int k = 0; k < k_tiles; k++) {
        _tile_loadd(4, a + ELLM_TILE_K * k, 2 * lda);
        _tile_loadd(5, b + k * b_k, TILE_LINE);
        _tile_dpbf16ps(0, 4, 5);
    }
    _tile_stored(0, c, 4 * ldc);
}

/* More than TILE_M rows over a pair of column tiles and a part of k: pairs of row tiles, at the end three if their number
 * is odd. Between them they fetch the tiles at `next`, if it is not NULL. Takes and returns whose C is in tiles 0-3. */
TILE_INLINE float *tile_pair(const ellm_bf16 *a, int64_t lda, int rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                             int k_tiles, float *c, int64_t ldc, int accumulate, const ellm_bf16 *next, float *last,
                             const int passes) {
    int blocks = (rows + TILE_M - 1) / (2 * TILE_M);
    tile_fetch fetch = {next, k_tiles, 0, 0};
    if (next)
        for (fetch.lines = 1; 2 * fetch.lines * blocks < TILE_LINES;) fetch.lines *= 2;
    for (int row = 0; row < rows; fetch.done += k_tiles) {
        const ellm_bf16 *x = a + row * lda;
        float *out = c + row * ldc;
        int left = rows - row;
        if (left > 2 * TILE_M && left <= 3 * TILE_M) {
            tile_store(2, 2, last, ldc);
            tile_block_3x2(x, lda, b, b_n, b_k, k_tiles, out, ldc, accumulate, fetch);
            last = 0;
            row += 3 * TILE_M;
        } else {
            tile_block_2x2(x, lda, b, b_n, b_k, k_tiles, out, ldc, accumulate, last, fetch, passes);
            last = out;
            row += 2 * TILE_M;
        }
    }
    return last;
}

/* k tiles of a part: of many rows 16, so that two columns take 32 KiB. Fewer rows wait for memory, as if these: a part of
 * 8 is there sooner, and a few rows do best with long runs of B. */
static inline int tile_depth(int rows) { return rows <= 64 ? 32 : rows < 256 ? 8 : 16; }

/* More than TILE_M rows over pairs of column tiles, in parts of k. A that fits in L2 is passed over by one pair after the
 * other; of A that does not, a part is passed over by all pairs. While a part is used, the next one is fetched, in the
 * end that of the columns behind. */
TILE_INLINE void tile_pairs(const ellm_bf16 *a, int64_t lda, int rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                            int pairs, int k_tiles, float *c, int64_t ldc, int accumulate, const int passes) {
    int stays = (int64_t)rows * k_tiles * TILE_LINE <= TILE_A_L2, depth = tile_depth(rows);
    int parts = (k_tiles + depth - 1) / depth;
    const ellm_bf16 *part = b;
    float *last = 0;
    for (int step = 0, pair = 0, k = 0; step < parts * pairs; step++) {
        int next = step + 1, next_pair = stays ? next / parts : next % pairs;
        int next_k = depth * (stays ? next % parts : next / pairs), count = k_tiles - k < depth ? k_tiles - k : depth;
        const ellm_bf16 *ahead = next < parts * pairs ? b + 2 * next_pair * b_n + next_k * b_k : b + 2 * pairs * b_n;
        const ellm_bf16 *fetched = k_tiles > TILE_NEAR ? ahead : 0;
        last = tile_pair(a + ELLM_TILE_K * k, lda, rows, part, b_n, b_k, count, c + 2 * ELLM_TILE_N * pair, ldc,
                         accumulate || k, fetched, last, passes);
        pair = next_pair, k = next_k, part = ahead;
    }
    tile_store(2, 2, last, ldc);
}

/* C[rows][ELLM_TILE_N * n_tiles] (= or +=) A[rows][ELLM_TILE_K * k_tiles] . B; tile (n, k) of B is at b + n * b_n + k *
 * b_k, in elements. Whole tiles of TILE_M rows are read from A and written to C. Every element of C is one chain over
 * ascending k, so it does not depend on what else is computed. */
static inline void tile_matmul(const ellm_bf16 *a, int64_t lda, int rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                               int n_tiles, int k_tiles, float *c, int64_t ldc, int accumulate) {
    int n = 0;
    __asm__ volatile("" ::: "memory"); /* gcc's tile loads do not say that they read memory */
    if (rows <= TILE_M) {
        for (; n + 4 <= n_tiles; n += 4)
            tile_block_1x4(a, lda, b + n * b_n, b_n, b_k, k_tiles, c + ELLM_TILE_N * n, ldc, accumulate);
    } else {
        if ((int64_t)rows * k_tiles * TILE_LINE > TILE_A_L1)
            tile_pairs(a, lda, rows, b, b_n, b_k, n_tiles / 2, k_tiles, c, ldc, accumulate, 1);
        else
            tile_pairs(a, lda, rows, b, b_n, b_k, n_tiles / 2, k_tiles, c, ldc, accumulate, 0);
        n = n_tiles / 2 * 2;
    }
    for (; n < n_tiles; n++)
        for (int row = 0; row < rows; row += TILE_M)
            tile_block_1x1(a + row * lda, lda, b + n * b_n, b_k, k_tiles, c + row * ldc + ELLM_TILE_N * n, ldc, accumulate);
}

#define tile_from_memory(a, lda, rows, b, b_n, b_k, n_tiles, k_tiles, c, ldc, accumulate, next) \
    tile_matmul(a, lda, rows, b, b_n, b_k, n_tiles, k_tiles, c, ldc, accumulate)

#endif
