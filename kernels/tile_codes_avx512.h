/* Products with tiles of int8 codes, which become bf16 in registers: the sums of tile_avx512.h over expanded tiles, in the
 * same order, without a way through memory. */
#ifndef ELLM_TILE_CODES_AVX512_H
#define ELLM_TILE_CODES_AVX512_H
#include "codes_avx512.h"
#include "fetch.h"

#define CODES_ROWS 8    /* most rows of a block of two column tiles; of four tiles, half of them: 16 sums, 5 registers of the */
#define CODES_COLUMNS 4 /* decoder, and what is expanded fill the register file */
#define CODES_AHEAD 4   /* k tiles that prefetch runs ahead */

/* One block of R rows and T column tiles over k_tiles, which lie b_n and b_k bytes apart. Line by line, what lies `ahead`
 * bytes on is fetched; or, if O, what lies from there on, in order of memory. R, T and O are constants where this is
 * inlined. */
__attribute__((always_inline)) static inline void codes_block(const int R, const int T, const int O, const ellm_bf16 *a,
                                                              int64_t lda, const char *b, int64_t b_n, int64_t b_k, int k_tiles,
                                                              float *c, int64_t ldc, int accumulate, int64_t ahead) {
    const int wide = R > CODES_ROWS / 2 ? T : 1; /* columns that are expanded before rows pass over them */
    codes_decoder decoder = codes_decoder_load();
    __m512 sum[TILE_TALL][TILE_WIDE];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int t = 0; t < T; t++)
            sum[r][t] = accumulate ? _mm512_loadu_ps(c + r * ldc + ELLM_TILE_N * t) : _mm512_setzero_ps();
    for (int k = 0; k < k_tiles; k++)
        for (int pair = 0; pair < ELLM_TILE_PAIRS; pair += 2) {
#pragma GCC unroll 8
            for (int first = 0; first < T; first += wide) {
                __m512i column[CODES_COLUMNS][2];
#pragma GCC unroll 4
                for (int t = 0; t < wide; t++) {
                    const char *line = b + (first + t) * b_n + k * b_k + ELLM_TILE_ROW * pair;
                    if (O)
                        fetch_far(b + ahead + ELLM_TILE_ROW * ((ELLM_TILE_PAIRS * k + pair) * T + 2 * (first + t)));
                    else
                        fetch_line(line + ahead);
                    codes_rows(line, &decoder, column[t]);
                }
#pragma GCC unroll 2
                for (int i = 0; i < 2; i++)
#pragma GCC unroll 16
                    for (int r = 0; r < R; r++) {
                        int32_t two;
                        memcpy(&two, a + r * lda + ELLM_TILE_K * k + 2 * (pair + i), sizeof two);
                        __m512bh row = (__m512bh)_mm512_set1_epi32(two);
#pragma GCC unroll 4
                        for (int t = 0; t < wide; t++)
                            sum[r][first + t] = _mm512_dpbf16_ps(sum[r][first + t], row, (__m512bh)column[t][i]);
                    }
            }
        }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) _mm512_storeu_ps(c + r * ldc + ELLM_TILE_N * t, sum[r][t]);
}

/* As codes_block, for up to CODES_ROWS rows of two column tiles, half of them of four, and one of one. */
static inline void codes_columns(int rows, int columns, const ellm_bf16 *a, int64_t lda, const char *b, int64_t b_n,
                                 int64_t b_k, int k_tiles, float *c, int64_t ldc, int accumulate, int64_t ahead) {
#define CODES_BLOCK(R, T) \
    case 8 * T + R: return codes_block(R, T, 0, a, lda, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    switch (8 * columns + rows) {
        CODES_BLOCK(1, 4)
        CODES_BLOCK(2, 4)
        CODES_BLOCK(3, 4)
        CODES_BLOCK(4, 4)
        CODES_BLOCK(1, 2)
        CODES_BLOCK(2, 2)
        CODES_BLOCK(3, 2)
        CODES_BLOCK(4, 2)
        CODES_BLOCK(5, 2)
        CODES_BLOCK(6, 2)
        CODES_BLOCK(7, 2)
        CODES_BLOCK(8, 2)
        CODES_BLOCK(1, 1)
    }
#undef CODES_BLOCK
}

/* As codes_block, for a block of TILE_ORDERED. */
static inline void codes_ordered(int rows, int columns, const ellm_bf16 *a, int64_t lda, const char *b, int64_t b_n,
                                 int64_t b_k, int k_tiles, float *c, int64_t ldc, int accumulate, int64_t ahead) {
    switch (TILE_ORDERED_CASE(rows, columns)) {
#define ORDERED(R, T) \
    case TILE_ORDERED_CASE(R, T): return codes_block(R, T, 1, a, lda, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
        TILE_ORDERED(ORDERED)
#undef ORDERED
    }
}

/* tile_codes for up to CODES_ROWS rows, as tile_from_memory reads; of keys two columns, as one would wait for its sums. */
static inline void codes_in_order(const ellm_bf16 *a, int64_t lda, int rows, const char *b, int64_t b_n, int64_t b_k,
                                  int n_tiles, int k_tiles, float *c, int64_t ldc, const char *next) {
    int together = b_k == ELLM_TILE, columns = tile_ordered_columns(rows, together ? 2 : TILE_WIDE, n_tiles);
    int part = together ? k_tiles : TILE_PART;
    for (int k = 0; k < k_tiles; k += part) {
        int count = k_tiles - k < part ? k_tiles - k : part;
        const char *ahead = k + part < k_tiles ? b + (k + part) * b_k : next;
        for (int n = 0; n < n_tiles; n += columns, ahead += columns * count * ELLM_TILE) {
            const char *at = b + n * b_n + k * b_k;
            codes_ordered(rows, columns, a + ELLM_TILE_K * k, lda, at, b_n, b_k, count, c + ELLM_TILE_N * n, ldc, k > 0,
                          together ? FETCH_FAR : ahead - at);
        }
    }
}

/* C[rows][ELLM_TILE_N * n_tiles] = A[rows][ELLM_TILE_K * k_tiles] . B, as tile_matmul; tile (n, k) of B is at b + n * b_n + k *
 * b_k. At `next` is what is read after it. */
static inline void tile_codes(const ellm_bf16 *a, int64_t lda, int rows, const char *b, int64_t b_n, int64_t b_k, int n_tiles,
                              int k_tiles, float *c, int64_t ldc, const char *next) {
    if (fetch_near && rows <= CODES_ROWS) {
        codes_in_order(a, lda, rows, b, b_n, b_k, n_tiles, k_tiles, c, ldc, next);
        return;
    }
    int blocks = (rows + CODES_ROWS - 1) / CODES_ROWS, most = (rows + blocks - 1) / blocks;
    int first = k_tiles > CODES_AHEAD ? k_tiles - CODES_AHEAD : 0; /* k tiles that fetch others of their columns */
    for (int n = 0, columns; n < n_tiles; n += columns) {
        columns = n_tiles - n == 1 ? 1 : n_tiles - n < 4 || most > CODES_ROWS / 2 ? 2 : 4;
        const char *column = b + n * b_n, *last = column + first * b_k;
        const char *after = n + columns < n_tiles ? column + columns * b_n : next;
        for (int row = 0, count; row < rows; row += count) {
            count = columns == 1 ? 1 : rows - row < most ? rows - row : most;
            const ellm_bf16 *x = a + row * lda;
            float *out = c + row * ldc + ELLM_TILE_N * n;
            if (first) codes_columns(count, columns, x, lda, column, b_n, b_k, first, out, ldc, 0, CODES_AHEAD * b_k);
            codes_columns(count, columns, x + ELLM_TILE_K * first, lda, last, b_n, b_k, k_tiles - first, out, ldc, first > 0,
                          after - last);
        }
    }
}

#endif
