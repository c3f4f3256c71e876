/* Tile products by TDPBF16PS: 2 x 2 blocks of tiles, k blocks whose sums go through C. */
#ifndef ELLM_TILE_H
#define ELLM_TILE_H
#include <immintrin.h>

#include "vector.h"

#define TILE_K_BLOCK 16 /* k tiles of two column tiles (32 KiB of B) that stay in L1 while all rows pass over them */
#define TILE_AHEAD 2    /* k tiles that prefetch runs ahead */

/* Palette 1, all eight tiles 16 rows of 64 bytes. The whole struct is the operand: gcc 12's _tile_loadconfig claims to
 * read 8 bytes of it, so that stores to the rest may be dropped. */
static inline void tile_enter(void) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        config.bytes[tile] = 64;
        config.rows[tile] = 16;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
}

static inline void tile_leave(void) { _tile_release(); }

static inline void tile_prefetch(const ellm_bf16 *tile) {
    for (int line = 0; line < 16; line++) _mm_prefetch((const char *)(tile + 32 * line), _MM_HINT_T0);
}

/* 32 rows x 2 column tiles: tiles 0-3 are C, 4 and 5 A, 6 and 7 B. The four loads stand before the four products. While
 * tile k is used, `streams` tiles at ahead + k * b_k are fetched. */
static inline void tile_block_2x2(const ellm_bf16 *a, int64_t lda, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                                  int k_tiles, float *c, int64_t ldc, int accumulate, const ellm_bf16 *ahead,
                                  int streams) {
    if (accumulate) {
        _tile_loadd(0, c, 4 * ldc);
        _tile_loadd(1, c + 16, 4 * ldc);
        _tile_loadd(2, c + 16 * ldc, 4 * ldc);
        _tile_loadd(3, c + 16 * ldc + 16, 4 * ldc);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int k = 0; k < k_tiles; k++) {
        for (int n = 0; n < streams; n++) tile_prefetch(ahead + n * b_n + k * b_k);
        _tile_loadd(4, a + 32 * k, 2 * lda);
        _tile_loadd(5, a + 16 * lda + 32 * k, 2 * lda);
        _tile_loadd(6, b + k * b_k, 64);
        _tile_loadd(7, b + b_n + k * b_k, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, 4 * ldc);
    _tile_stored(1, c + 16, 4 * ldc);
    _tile_stored(2, c + 16 * ldc, 4 * ldc);
    _tile_stored(3, c + 16 * ldc + 16, 4 * ldc);
}

/* 16 rows x 4 column tiles, streamed side by side: tiles 0-3 are C, 4 is A, 5-7 B. */
static inline void tile_block_1x4(const ellm_bf16 *a, int64_t lda, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                                  int k_tiles, float *c, int64_t ldc, int accumulate) {
    if (accumulate) {
        _tile_loadd(0, c, 4 * ldc);
        _tile_loadd(1, c + 16, 4 * ldc);
        _tile_loadd(2, c + 32, 4 * ldc);
        _tile_loadd(3, c + 48, 4 * ldc);
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
        _tile_loadd(4, a + 32 * k, 2 * lda);
        _tile_loadd(5, tile, 64);
        _tile_loadd(6, tile + b_n, 64);
        _tile_loadd(7, tile + 2 * b_n, 64);
        _tile_dpbf16ps(0, 4, 5);
        _tile_loadd(5, tile + 3 * b_n, 64);
        _tile_dpbf16ps(1, 4, 6);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 4, 5);
    }
    _tile_stored(0, c, 4 * ldc);
    _tile_stored(1, c + 16, 4 * ldc);
    _tile_stored(2, c + 32, 4 * ldc);
    _tile_stored(3, c + 48, 4 * ldc);
}

static inline void tile_block_1x1(const ellm_bf16 *a, int64_t lda, const ellm_bf16 *b, int64_t b_k, int k_tiles,
                                  float *c, int64_t ldc, int accumulate) {
    if (accumulate)
        _tile_loadd(0, c, 4 * ldc);
    else
        _tile_zero(0);
    for (int k = 0; k < k_tiles; k++) {
        _tile_loadd(4, a + 32 * k, 2 * lda);
        _tile_loadd(5, b + k * b_k, 64);
        _tile_dpbf16ps(0, 4, 5);
    }
    _tile_stored(0, c, 4 * ldc);
}

/* More than 16 rows over a pair of column tiles, in parts of k whose sums go through C: pairs of row tiles, then a row
 * tile that is left. While the first rows pass over a part, the next one is fetched. */
static inline void tile_pairs(const ellm_bf16 *a, int64_t lda, int rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                              int k_tiles, float *c, int64_t ldc, int accumulate) {
    for (int k = 0; k < k_tiles; k += TILE_K_BLOCK) {
        int count = k_tiles - k < TILE_K_BLOCK ? k_tiles - k : TILE_K_BLOCK, next = k + TILE_K_BLOCK;
        const ellm_bf16 *ahead = next < k_tiles ? b + next * b_k : b + 2 * b_n;
        int row = 0, again = accumulate || k;
        for (; row + 16 < rows; row += 32)
            tile_block_2x2(a + row * lda + 32 * k, lda, b + k * b_k, b_n, b_k, count, c + row * ldc, ldc, again, ahead,
                           row == 0 ? 2 : 0);
        for (int n = 0; n < 2 && row < rows; n++)
            tile_block_1x1(a + row * lda + 32 * k, lda, b + n * b_n + k * b_k, b_k, count, c + row * ldc + 16 * n, ldc,
                           again);
    }
}

/* C[rows][16 * n_tiles] (= or +=) A[rows][32 * k_tiles] . B; tile (n, k) of B is at b + n * b_n + k * b_k elements.
 * Whole tiles of 16 rows are read from A and written to C. Every element of C is one chain over ascending k, so it does
 * not depend on what else is computed. */
static inline void tile_matmul(const ellm_bf16 *a, int64_t lda, int rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                               int n_tiles, int k_tiles, float *c, int64_t ldc, int accumulate) {
    int n = 0;
    __asm__ volatile("" ::: "memory"); /* gcc's tile loads do not say that they read memory */
    if (rows <= 16)
        for (; n + 4 <= n_tiles; n += 4)
            tile_block_1x4(a, lda, b + n * b_n, b_n, b_k, k_tiles, c + 16 * n, ldc, accumulate);
    else
        for (; n + 2 <= n_tiles; n += 2)
            tile_pairs(a, lda, rows, b + n * b_n, b_n, b_k, k_tiles, c + 16 * n, ldc, accumulate);
    for (; n < n_tiles; n++)
        for (int row = 0; row < rows; row += 16)
            tile_block_1x1(a + row * lda, lda, b + n * b_n, b_k, k_tiles, c + row * ldc + 16 * n, ldc, accumulate);
}

#endif
