/* Tile products in C for any CPU, on vectors of four floats (a gcc and clang extension that every target has). */
#ifndef ELLM_TILE_H
#define ELLM_TILE_H
#include "cache.h"
#include "vector.h"

typedef float tile_lanes __attribute__((vector_size(16)));

static inline void tile_enter(void) {}
static inline void tile_leave(void) {}

/* Widens a tile to f32: wide[k][n / 4] holds columns n .. n + 3. */
static inline void tile_widen(const ellm_bf16 *tile, tile_lanes (*wide)[4]) {
    for (int pair = 0; pair < ELLM_TILE_PAIRS; pair++)
        for (int column = 0; column < ELLM_TILE_N; column++) {
            wide[2 * pair][column / 4][column % 4] = f32_from_bf16(tile[ELLM_TILE_ROW * pair + 2 * column]);
            wide[2 * pair + 1][column / 4][column % 4] = f32_from_bf16(tile[ELLM_TILE_ROW * pair + 2 * column + 1]);
        }
}

/* c[ELLM_TILE_N] (= or +=) a[ELLM_TILE_K] . wide */
static inline void tile_row(const ellm_bf16 *a, tile_lanes (*wide)[4], float *c, int accumulate) {
    tile_lanes sum[4] = {{0}};
    if (accumulate) memcpy(sum, c, sizeof sum);
    for (int k = 0; k < ELLM_TILE_K; k++) {
        float x = f32_from_bf16(a[k]);
        tile_lanes row = {x, x, x, x};
#pragma GCC unroll 4
        for (int quarter = 0; quarter < 4; quarter++) sum[quarter] += row * wide[k][quarter];
    }
    memcpy(c, sum, sizeof sum);
}

/* C[rows][ELLM_TILE_N * n_tiles] (= or +=) A[rows][ELLM_TILE_K * k_tiles] . B; tile (n, k) of B is at b + n * b_n + k *
 * b_k, in elements. Every element of C is one chain over ascending k, so it does not depend on what else is computed. */
static inline void tile_matmul(const ellm_bf16 *a, int64_t lda, int rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                               int n_tiles, int k_tiles, float *c, int64_t ldc, int accumulate) {
    for (int n = 0; n < n_tiles; n++)
        for (int k = 0; k < k_tiles; k++) {
            tile_lanes wide[ELLM_TILE_K][4];
            tile_widen(b + n * b_n + k * b_k, wide);
            for (int row = 0; row < rows; row++)
                tile_row(a + row * lda + ELLM_TILE_K * k, wide, c + row * ldc + ELLM_TILE_N * n, accumulate || k);
        }
}

/* The same of B in int8 codes, b_n and b_k in bytes. At `next` is what is read after it. */
static inline void tile_codes(const ellm_bf16 *a, int64_t lda, int rows, const char *b, int64_t b_n, int64_t b_k, int n_tiles,
                              int k_tiles, float *c, int64_t ldc, const char *next) {
    ellm_bf16 tile[ELLM_TILE];
    (void)next;
    for (int n = 0; n < n_tiles; n++)
        for (int k = 0; k < k_tiles; k++) {
            cache_expand_tile((const int8_t *)b + n * b_n + k * b_k, tile);
            tile_matmul(a + ELLM_TILE_K * k, lda, rows, tile, 0, 0, 1, 1, c + ELLM_TILE_N * n, ldc, k > 0);
        }
}

#define tile_from_memory(a, lda, rows, b, b_n, b_k, n_tiles, k_tiles, c, ldc, accumulate, next) \
    tile_matmul(a, lda, rows, b, b_n, b_k, n_tiles, k_tiles, c, ldc, accumulate)

#endif
