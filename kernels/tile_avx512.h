/* Tile products by VDPBF16PS: blocks of rows x column tiles whose sums stay in registers. */
#ifndef ELLM_TILE_H
#define ELLM_TILE_H
#include <immintrin.h>

#include "fetch.h"
#include "vector.h"

#define TILE_ROWS 6      /* most rows of a block: 6 x 4 sums, 4 registers of B and one of A fill the register file */
#define TILE_K_BLOCK 6   /* k tiles whose B (4 column tiles) stays in L1 while all rows pass over it */
#define TILE_STREAMS 4   /* most column tiles of a block, read side by side */
#define TILE_WIDE 8      /* the same for TILE_FLAT rows */
#define TILE_FLAT 2
#define TILE_AHEAD 2     /* k tiles that prefetch runs ahead of a single block of rows */

static inline void tile_enter(void) {}
static inline void tile_leave(void) {}

/* One block of R rows and T column tiles over k_tiles. Line by line, the F tiles at ahead + k * b_k (b_n apart) are
 * fetched while tile k is used, by fetch_far if O: they are read in order of memory. R, T, F and O are constants where this
 * is inlined. */
__attribute__((always_inline)) static inline void tile_block(
    const int R, const int T, const int F, const int O, const ellm_bf16 *a, int64_t lda, const ellm_bf16 *b, int64_t b_n,
    int64_t b_k, int k_tiles, float *c, int64_t ldc, int accumulate, const ellm_bf16 *ahead) {
    __m512 sum[TILE_ROWS][TILE_WIDE];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int t = 0; t < T; t++)
            sum[r][t] = accumulate ? _mm512_loadu_ps(c + r * ldc + ELLM_TILE_N * t) : _mm512_setzero_ps();
    for (int k = 0; k < k_tiles; k++) {
        for (int pair = 0; pair < ELLM_TILE_PAIRS; pair++) {
            __m512i column[TILE_WIDE];
#pragma GCC unroll 8
            for (int f = 0; f < F; f++) {
                const ellm_bf16 *line = ahead + f * b_n + k * b_k + ELLM_TILE_ROW * pair;
                O ? fetch_far(line) : fetch_line(line);
            }
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) column[t] = _mm512_loadu_si512(b + t * b_n + k * b_k + ELLM_TILE_ROW * pair);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                int32_t two;
                memcpy(&two, a + r * lda + ELLM_TILE_K * k + 2 * pair, sizeof two);
                __m512i row = _mm512_set1_epi32(two);
#pragma GCC unroll 8
                for (int t = 0; t < T; t++) sum[r][t] = _mm512_dpbf16_ps(sum[r][t], (__m512bh)row, (__m512bh)column[t]);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) _mm512_storeu_ps(c + r * ldc + ELLM_TILE_N * t, sum[r][t]);
}

/* As tile_block, for `rows` or TILE_ROWS rows, whichever is less. */
__attribute__((always_inline)) static inline void tile_rows(
    const int T, const int F, const int O, const ellm_bf16 *a, int64_t lda, int rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
    int k_tiles, float *c, int64_t ldc, int accumulate, const ellm_bf16 *ahead) {
    switch (rows) {
    case 1: return tile_block(1, T, F, O, a, lda, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    case 2: return tile_block(2, T, F, O, a, lda, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    case 3: return tile_block(3, T, F, O, a, lda, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    case 4: return tile_block(4, T, F, O, a, lda, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    case 5: return tile_block(5, T, F, O, a, lda, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    default: return tile_block(6, T, F, O, a, lda, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
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
                tile_rows(T, 1, 0, x, lda, left, part, b_n, b_k, count, out, ldc, again, fetch);
            else if (fetched == T)
                tile_rows(T, T, 0, x, lda, left, part, b_n, b_k, count, out, ldc, again, fetch);
            else
                tile_rows(T, T / 2, 0, x, lda, left, part, b_n, b_k, count, out, ldc, again, fetch);
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

/* The same for few rows and tiles from memory, read in its order, which hardware follows: one column after the other where
 * the tiles of each lie together, else all columns side by side. Returns 0, and does nothing, for more rows, or columns that
 * do not lie so. */
static inline int tile_in_order(const ellm_bf16 *a, int64_t lda, int rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                                int n_tiles, int k_tiles, float *c, int64_t ldc, int accumulate) {
    if (rows <= TILE_ROWS && b_k == ELLM_TILE) {
        for (int n = 0; n < n_tiles; n++) {
            const ellm_bf16 *column = b + n * b_n, *ahead = column + FETCH_FAR / sizeof *b;
            tile_rows(1, 1, 1, a, lda, rows, column, b_n, b_k, k_tiles, c + ELLM_TILE_N * n, ldc, accumulate, ahead);
        }
        return 1;
    }
    if (rows > TILE_FLAT || n_tiles != TILE_WIDE || b_n != ELLM_TILE) return 0;
    const ellm_bf16 *ahead = b + TILE_AHEAD * b_k;
    if (rows == 1)
        tile_block(1, TILE_WIDE, TILE_WIDE, 1, a, lda, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    else
        tile_block(TILE_FLAT, TILE_WIDE, TILE_WIDE, 1, a, lda, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    return 1;
}

/* tile_matmul for tiles from memory. */
static inline void tile_from_memory(const ellm_bf16 *a, int64_t lda, int rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                                    int n_tiles, int k_tiles, float *c, int64_t ldc, int accumulate) {
    if (!fetch_near || !tile_in_order(a, lda, rows, b, b_n, b_k, n_tiles, k_tiles, c, ldc, accumulate))
        tile_matmul(a, lda, rows, b, b_n, b_k, n_tiles, k_tiles, c, ldc, accumulate);
}

#endif
