/* Tile products by VDPBF16PS: blocks of rows x column tiles whose sums stay in registers. */
#ifndef ELLM_TILE_H
#define ELLM_TILE_H
#include <immintrin.h>

#include "fetch.h"
#include "vector.h"

#define TILE_ROWS 6      /* most rows of a block: 6 x 4 sums, 4 registers of B and one of A fill the register file */
#define TILE_K_BLOCK 6   /* k tiles whose B (4 column tiles) stays in L1 while all rows pass over it */
#define TILE_STREAMS 4   /* most column tiles of a block, read side by side */
#define TILE_WIDE 8      /* the same for very few rows */
#define TILE_TALL 16     /* most rows that read tiles in order of memory */
#define TILE_PART 2      /* k tiles of columns side by side that are read before the next columns */
#define TILE_AHEAD 2     /* k tiles that prefetch runs ahead of a single block of rows */

static inline void tile_enter(void) {}
static inline void tile_leave(void) {}

/* One block of R rows and T column tiles over k_tiles. Line by line, the F tiles at ahead + k * b_k (b_n apart) are
 * fetched while tile k is used; or, if O, what lies from `ahead` on, in order of memory. R, T, F and O are constants where
 * this is inlined. */
__attribute__((always_inline)) static inline void tile_block(
    const int R, const int T, const int F, const int O, const ellm_bf16 *a, int64_t lda, const ellm_bf16 *b, int64_t b_n,
    int64_t b_k, int k_tiles, float *c, int64_t ldc, int accumulate, const ellm_bf16 *ahead) {
    __m512 sum[TILE_TALL][TILE_WIDE];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int t = 0; t < T; t++)
            sum[r][t] = accumulate ? _mm512_loadu_ps(c + r * ldc + ELLM_TILE_N * t) : _mm512_setzero_ps();
    for (int k = 0; k < k_tiles; k++) {
        for (int pair = 0; pair < ELLM_TILE_PAIRS; pair++) {
            __m512i column[TILE_WIDE];
#pragma GCC unroll 8
            for (int f = 0; f < F; f++)
                if (O)
                    fetch_far(ahead + ELLM_TILE_ROW * ((ELLM_TILE_PAIRS * k + pair) * F + f));
                else
                    fetch_line(ahead + f * b_n + k * b_k + ELLM_TILE_ROW * pair);
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) column[t] = _mm512_loadu_si512(b + t * b_n + k * b_k + ELLM_TILE_ROW * pair);
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                int32_t two;
                memcpy(&two, a + r * lda + ELLM_TILE_K * k + 2 * pair, sizeof two);
                __m512i row = _mm512_set1_epi32(two);
#pragma GCC unroll 8
                for (int t = 0; t < T; t++) sum[r][t] = _mm512_dpbf16_ps(sum[r][t], (__m512bh)row, (__m512bh)column[t]);
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) _mm512_storeu_ps(c + r * ldc + ELLM_TILE_N * t, sum[r][t]);
}

/* As tile_block, for `rows` or TILE_ROWS rows, whichever is less. */
__attribute__((always_inline)) static inline void tile_rows(
    const int T, const int F, const ellm_bf16 *a, int64_t lda, int rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
    int k_tiles, float *c, int64_t ldc, int accumulate, const ellm_bf16 *ahead) {
    switch (rows) {
    case 1: return tile_block(1, T, F, 0, a, lda, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    case 2: return tile_block(2, T, F, 0, a, lda, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    case 3: return tile_block(3, T, F, 0, a, lda, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    case 4: return tile_block(4, T, F, 0, a, lda, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    case 5: return tile_block(5, T, F, 0, a, lda, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    default: return tile_block(6, T, F, 0, a, lda, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    }
}

/* All rows over T column tiles, in parts of k whose sums go through c. What is fetched meanwhile, by one block of rows
 * TILE_AHEAD tiles ahead and by many the next part between them, goes on into the next T columns at the end. */
__attribute__((always_inline)) static inline void tile_columns(
    const int T, const ellm_bf16 *a, int64_t lda, int rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k, int k_tiles,
    float *c, int64_t ldc, int accumulate) {
    int blocks = (rows + TILE_ROWS - 1) / TILE_ROWS, ahead = blocks == 1 ? TILE_AHEAD : TILE_K_BLOCK;
    int fetched = blocks == 1 ? T : blocks < T ? T / 2 : 1; /* streams that one block of rows fetches */
    for (int k = 0, count; k < k_tiles; k += count) {
        const ellm_bf16 *part = b + k * b_k, *next = k + ahead < k_tiles ? part + ahead * b_k : b + T * b_n;
        count = k + ahead >= k_tiles ? k_tiles - k : blocks == 1 ? k_tiles - ahead : ahead;
        for (int block = 0; block < blocks; block++) {
            const ellm_bf16 *x = a + block * TILE_ROWS * lda + ELLM_TILE_K * k;
            const ellm_bf16 *fetch = block * fetched < T ? next + block * fetched * b_n : part; /* part: no effect */
            float *out = c + block * TILE_ROWS * ldc;
            int left = rows - block * TILE_ROWS, again = accumulate || k;
            if (fetched == 1)
                tile_rows(T, 1, x, lda, left, part, b_n, b_k, count, out, ldc, again, fetch);
            else if (fetched == T)
                tile_rows(T, T, x, lda, left, part, b_n, b_k, count, out, ldc, again, fetch);
            else
                tile_rows(T, T / 2, x, lda, left, part, b_n, b_k, count, out, ldc, again, fetch);
        }
    }
}

/* C[rows][ELLM_TILE_N * n_tiles] (= or +=) A[rows][ELLM_TILE_K * k_tiles] . B; tile (n, k) of B is at b + n * b_n + k *
 * b_k, in elements. Every element of C is one chain over ascending k, so it does not depend on what else is computed. */
static inline void tile_matmul(const ellm_bf16 *a, int64_t lda, int rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                               int n_tiles, int k_tiles, float *c, int64_t ldc, int accumulate) {
    int n = 0;
    for (; n + TILE_STREAMS <= n_tiles; n += TILE_STREAMS)
        tile_columns(TILE_STREAMS, a, lda, rows, b + n * b_n, b_n, b_k, k_tiles, c + ELLM_TILE_N * n, ldc, accumulate);
    for (; n < n_tiles; n++)
        tile_columns(1, a, lda, rows, b + n * b_n, b_n, b_k, k_tiles, c + ELLM_TILE_N * n, ldc, accumulate);
}

/* Blocks of rows and column tiles that read tiles in order of memory: up to 16 sums, which do not wait for each other. */
#define TILE_ORDERED(X)                                                                       \
    X(1, 8) X(2, 8) X(1, 4) X(2, 4) X(3, 4) X(4, 4)                                           \
    X(1, 2) X(2, 2) X(3, 2) X(4, 2) X(5, 2) X(6, 2) X(7, 2) X(8, 2)                           \
    X(1, 1) X(2, 1) X(3, 1) X(4, 1) X(5, 1) X(6, 1) X(7, 1) X(8, 1)                           \
    X(9, 1) X(10, 1) X(11, 1) X(12, 1) X(13, 1) X(14, 1) X(15, 1) X(16, 1)
#define TILE_ORDERED_CASE(rows, columns) (TILE_TALL * (columns) + (rows)-1)

/* How many of up to `most` columns such a block has. */
static inline int tile_ordered_columns(int rows, int most, int n_tiles) {
    int columns = most;
    while (columns > 1 && (columns * rows > TILE_TALL || n_tiles % columns)) columns /= 2;
    return columns;
}

/* As tile_block, for such a block. */
static inline void tile_ordered(int rows, int columns, const ellm_bf16 *a, int64_t lda, const ellm_bf16 *b, int64_t b_n,
                                int64_t b_k, int k_tiles, float *c, int64_t ldc, int accumulate, const ellm_bf16 *ahead) {
    switch (TILE_ORDERED_CASE(rows, columns)) {
#define ORDERED(R, T) \
    case TILE_ORDERED_CASE(R, T): return tile_block(R, T, T, 1, a, lda, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
        TILE_ORDERED(ORDERED)
#undef ORDERED
    }
}

/* tile_matmul for tiles from memory, where those of a column or of a k tile lie together; at `next` is what is read after
 * them. Where that pays, few rows read them in order, columns side by side in parts of TILE_PART k tiles, so that what is
 * skipped does not leave the caches. */
static inline void tile_from_memory(const ellm_bf16 *a, int64_t lda, int rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                                    int n_tiles, int k_tiles, float *c, int64_t ldc, int accumulate, const ellm_bf16 *next) {
    if (!fetch_near || rows > TILE_TALL) {
        tile_matmul(a, lda, rows, b, b_n, b_k, n_tiles, k_tiles, c, ldc, accumulate);
    } else if (b_k == ELLM_TILE) {
        const int64_t far = FETCH_FAR / (int64_t)sizeof *b, end = n_tiles * b_n;
        for (int64_t n = 0, at = 0; n < n_tiles; n++, at += b_n)
            tile_ordered(rows, 1, a, lda, b + at, b_n, b_k, k_tiles, c + ELLM_TILE_N * n, ldc, accumulate,
                         at + far < end ? b + at + far : next + (at + far - end));
    } else {
        int columns = tile_ordered_columns(rows, TILE_WIDE, n_tiles);
        for (int k = 0; k < k_tiles; k += TILE_PART) {
            int count = k_tiles - k < TILE_PART ? k_tiles - k : TILE_PART;
            const ellm_bf16 *ahead = k + TILE_PART < k_tiles ? b + (k + TILE_PART) * b_k : next;
            for (int n = 0; n < n_tiles; n += columns, ahead += (int64_t)columns * count * ELLM_TILE)
                tile_ordered(rows, columns, a + ELLM_TILE_K * k, lda, b + n * b_n + k * b_k, b_n, b_k, count,
                             c + ELLM_TILE_N * n, ldc, accumulate || k, ahead);
        }
    }
}

#endif
