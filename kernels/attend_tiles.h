/* The two products of attention: tiles of keys and values are few and come from L2, with which many rows meet. */
#ifndef ELLM_ATTEND_TILES_H
#define ELLM_ATTEND_TILES_H
#include "vector.h"

#ifdef __AMX_BF16__
#include <immintrin.h>

/* Before the first product of tile `tile` of C: what it holds of the block before. */
#define ATTEND_NEXT(tile, offset)  \
    if (k == 0) {                  \
        TILE_NEXT_C(tile, offset); \
    }

/* R row tiles x T column tiles of C = A . B: tiles 0-3 are C, 4 and 5 A, 6 and 7 B. R and T are constants where this is
 * inlined. What is in tiles 0-3 of two by two tiles of C is stored between the first products of the next block (tiles are
 * multiplied and stored in order): `last`, or NULL, is where on entry, and what is returned where on return. Unlike the blocks
 * of tile_amx.h it fetches nothing ahead: with as few k tiles as a head has, that costs a third. */
TILE_INLINE float *attend_block(const int R, const int T, const ellm_bf16 *a, int64_t lda, const ellm_bf16 *b, int64_t b_n,
                                  int64_t b_k, int64_t k_tiles, float *c, int64_t ldc, float *last) {
    const int whole = R > 1 && T > 1, accumulate = 0;
    if (!whole) {
        tile_store(2, 2, last, ldc);
        last = 0;
    }
    for (int64_t k = 0; k < k_tiles; k++) {
        _tile_loadd(6, b + k * b_k, 4 * ELLM_TILE_N);
        _tile_loadd(4, a + ELLM_TILE_K * k, 2 * lda);
        ATTEND_NEXT(0, 0)
        _tile_dpbf16ps(0, 4, 6);
        if (T > 1) {
            _tile_loadd(7, b + b_n + k * b_k, 4 * ELLM_TILE_N);
            ATTEND_NEXT(1, ELLM_TILE_N)
            _tile_dpbf16ps(1, 4, 7);
        }
        if (R > 1) {
            _tile_loadd(5, a + ELLM_TILE_N * lda + ELLM_TILE_K * k, 2 * lda);
            ATTEND_NEXT(2, ELLM_TILE_N * ldc)
            _tile_dpbf16ps(2, 5, 6);
        }
        if (whole) {
            ATTEND_NEXT(3, ELLM_TILE_N * ldc + ELLM_TILE_N)
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    if (whole) return c;
    tile_store(R, T, c, ldc);
    return 0;
}

TILE_INLINE float *attend_columns(const int T, const ellm_bf16 *a, int64_t lda, int64_t rows, const ellm_bf16 *b, int64_t b_n,
                                    int64_t b_k, int64_t k_tiles, float *c, int64_t ldc, float *last) {
    int64_t row = 0;
    for (; row + ELLM_TILE_N < rows; row += 2 * ELLM_TILE_N)
        last = attend_block(2, T, a + row * lda, lda, b, b_n, b_k, k_tiles, c + row * ldc, ldc, last);
    if (row < rows) last = attend_block(1, T, a + row * lda, lda, b, b_n, b_k, k_tiles, c + row * ldc, ldc, last);
    return last;
}
#endif

/* C = A . B as tile_matmul has it, with its bits; the caller has included the ISA's. At `next` is what is read after B. */
static inline void attend_matmul(const ellm_bf16 *a, int64_t lda, int64_t rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                                 int64_t n_tiles, int64_t k_tiles, float *c, int64_t ldc, const ellm_bf16 *next) {
#ifdef __AMX_BF16__
    if (rows > ELLM_TILE_N) {
        float *last = 0;
        int64_t n = 0;
        __asm__ volatile("" ::: "memory"); /* gcc's tile loads do not say that they read memory */
        for (; n + 2 <= n_tiles; n += 2)
            last = attend_columns(2, a, lda, rows, b + n * b_n, b_n, b_k, k_tiles, c + ELLM_TILE_N * n, ldc, last);
        if (n < n_tiles)
            last = attend_columns(1, a, lda, rows, b + n * b_n, b_n, b_k, k_tiles, c + ELLM_TILE_N * n, ldc, last);
        tile_store(2, 2, last, ldc);
        return;
    }
#endif
    tile_from_memory(a, lda, (int)rows, b, b_n, b_k, (int)n_tiles, (int)k_tiles, c, ldc, 0, next);
    (void)next;
}

#endif
