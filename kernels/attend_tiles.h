/* The two products of attention: tiles of keys and values are few and come from L2, with which many rows meet. */
#ifndef ELLM_ATTEND_TILES_H
#define ELLM_ATTEND_TILES_H
#include "vector.h"

#ifdef __AMX_BF16__
#include <immintrin.h>

/* R row tiles x T column tiles of C = A . B: tiles 0-3 are C, 4 and 5 A, 6 and 7 B. R and T are constants where this is
 * inlined. Unlike the blocks of tile_amx.h it fetches nothing ahead: with as few k tiles as a head has, that costs a third. */
__attribute__((always_inline)) static inline void attend_block(const int R, const int T, const ellm_bf16 *a, int64_t lda,
                                                               const ellm_bf16 *b, int64_t b_n, int64_t b_k, int64_t k_tiles,
                                                               float *c, int64_t ldc, int accumulate) {
    float *below = c + ELLM_TILE_N * ldc;
    if (accumulate) {
        _tile_loadd(0, c, 4 * ldc);
        if (T > 1) _tile_loadd(1, c + ELLM_TILE_N, 4 * ldc);
        if (R > 1) _tile_loadd(2, below, 4 * ldc);
        if (R > 1 && T > 1) _tile_loadd(3, below + ELLM_TILE_N, 4 * ldc);
    } else {
        _tile_zero(0);
        if (T > 1) _tile_zero(1);
        if (R > 1) _tile_zero(2);
        if (R > 1 && T > 1) _tile_zero(3);
    }
    for (int64_t k = 0; k < k_tiles; k++) {
        _tile_loadd(6, b + k * b_k, 4 * ELLM_TILE_N);
        _tile_loadd(4, a + ELLM_TILE_K * k, 2 * lda);
        _tile_dpbf16ps(0, 4, 6);
        if (T > 1) _tile_loadd(7, b + b_n + k * b_k, 4 * ELLM_TILE_N);
        if (T > 1) _tile_dpbf16ps(1, 4, 7);
        if (R > 1) _tile_loadd(5, a + ELLM_TILE_N * lda + ELLM_TILE_K * k, 2 * lda);
        if (R > 1) _tile_dpbf16ps(2, 5, 6);
        if (R > 1 && T > 1) _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, 4 * ldc);
    if (T > 1) _tile_stored(1, c + ELLM_TILE_N, 4 * ldc);
    if (R > 1) _tile_stored(2, below, 4 * ldc);
    if (R > 1 && T > 1) _tile_stored(3, below + ELLM_TILE_N, 4 * ldc);
}

__attribute__((always_inline)) static inline void attend_columns(const int T, const ellm_bf16 *a, int64_t lda, int64_t rows,
                                                                 const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                                                                 int64_t k_tiles, float *c, int64_t ldc, int accumulate) {
    int64_t row = 0;
    for (; row + ELLM_TILE_N < rows; row += 2 * ELLM_TILE_N)
        attend_block(2, T, a + row * lda, lda, b, b_n, b_k, k_tiles, c + row * ldc, ldc, accumulate);
    if (row < rows) attend_block(1, T, a + row * lda, lda, b, b_n, b_k, k_tiles, c + row * ldc, ldc, accumulate);
}
#endif

/* tile_matmul, with its bits; the caller has included the ISA's. At `next` is what is read after B. */
static inline void attend_matmul(const ellm_bf16 *a, int64_t lda, int64_t rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                                 int64_t n_tiles, int64_t k_tiles, float *c, int64_t ldc, int accumulate,
                                 const ellm_bf16 *next) {
#ifdef __AMX_BF16__
    if (rows > ELLM_TILE_N) {
        int64_t n = 0;
        __asm__ volatile("" ::: "memory"); /* gcc's tile loads do not say that they read memory */
        for (; n + 2 <= n_tiles; n += 2)
            attend_columns(2, a, lda, rows, b + n * b_n, b_n, b_k, k_tiles, c + ELLM_TILE_N * n, ldc, accumulate);
        if (n < n_tiles) attend_columns(1, a, lda, rows, b + n * b_n, b_n, b_k, k_tiles, c + ELLM_TILE_N * n, ldc, accumulate);
        return;
    }
#endif
    tile_from_memory(a, lda, (int)rows, b, b_n, b_k, (int)n_tiles, (int)k_tiles, c, ldc, accumulate, next);
    (void)next;
}

#endif
