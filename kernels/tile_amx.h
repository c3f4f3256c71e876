/* Tile products by TDPBF16PS: 2 x 2 and 3 x 2 blocks of tiles, in parts of k whose sums go through C.
 *
 * A TDPBF16PS takes 16 cycles, a tile from L1 8 and from L2 about 20; so a 2 x 2 block, four tiles for four products, runs at
 * the unit's rate where either A or B is in L1, and at two thirds of it where both come from L2.
 */
#ifndef ELLM_TILE_H
#define ELLM_TILE_H
#include <immintrin.h>

#include "vector.h"

#define TILE_K_BLOCK 32        /* k tiles of a part, where A stays in L2 */
#define TILE_K_SHALLOW 8       /* and where it does not: all columns pass over a part of A before the next one */
#define TILE_A_BYTES (1 << 20) /* of A that stay in L2 beside the columns: half of it */
#define TILE_AHEAD 2           /* k tiles that prefetch runs ahead of a single row tile */
#define TILE_LINES 16          /* cache lines of a tile */

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

/* What a block fetches into L2 while it works: `lines` lines of the tile at from + k * b_k, and of the one behind it if
 * `both` columns are its part. */
typedef struct tile_fetch {
    const ellm_bf16 *from;
    int lines, both;
} tile_fetch;

static inline void tile_fetch_lines(tile_fetch fetch, int64_t b_n, int64_t b_k, int k) {
    const char *tile = (const char *)(fetch.from + k * b_k), *end = tile + 64 * fetch.lines;
    if (fetch.both)
        for (; tile < end; tile += 64) {
            _mm_prefetch(tile, _MM_HINT_T1);
            _mm_prefetch(tile + b_n * (int64_t)sizeof(ellm_bf16), _MM_HINT_T1);
        }
    else
        for (; tile < end; tile += 64) _mm_prefetch(tile, _MM_HINT_T1);
}

/* 32 rows x 2 column tiles: tiles 0-3 are C, 4 and 5 A, 6 and 7 B. Every load stands just before its first use, C's too, so
 * that the first products run while the rest is loaded. */
static inline void tile_block_2x2(const ellm_bf16 *a, int64_t lda, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                                  int k_tiles, float *c, int64_t ldc, int accumulate, tile_fetch fetch) {
    int k = 0;
    if (accumulate) {
        _tile_loadd(6, b, 64);
        _tile_loadd(4, a, 2 * lda);
        _tile_loadd(0, c, 4 * ldc);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + b_n, 64);
        _tile_loadd(1, c + 16, 4 * ldc);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + 16 * lda, 2 * lda);
        _tile_loadd(2, c + 16 * ldc, 4 * ldc);
        _tile_dpbf16ps(2, 5, 6);
        _tile_loadd(3, c + 16 * ldc + 16, 4 * ldc);
        _tile_dpbf16ps(3, 5, 7);
        tile_fetch_lines(fetch, b_n, b_k, k++);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (; k < k_tiles; k++) {
        tile_fetch_lines(fetch, b_n, b_k, k);
        _tile_loadd(6, b + k * b_k, 64);
        _tile_loadd(4, a + 32 * k, 2 * lda);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + b_n + k * b_k, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + 16 * lda + 32 * k, 2 * lda);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, 4 * ldc);
    _tile_stored(1, c + 16, 4 * ldc);
    _tile_stored(2, c + 16 * ldc, 4 * ldc);
    _tile_stored(3, c + 16 * ldc + 16, 4 * ldc);
}

/* 48 rows x 2 column tiles: tiles 0-5 are C, 6 is A and 7 B, and each tile of A is loaded once for either column. */
static inline void tile_block_3x2(const ellm_bf16 *a, int64_t lda, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                                  int k_tiles, float *c, int64_t ldc, int accumulate, tile_fetch fetch) {
    const ellm_bf16 *a1 = a + 16 * lda, *a2 = a + 32 * lda;
    float *c1 = c + 16 * ldc, *c2 = c + 32 * ldc;
    if (accumulate) {
        _tile_loadd(0, c, 4 * ldc);
        _tile_loadd(1, c1, 4 * ldc);
        _tile_loadd(2, c2, 4 * ldc);
        _tile_loadd(3, c + 16, 4 * ldc);
        _tile_loadd(4, c1 + 16, 4 * ldc);
        _tile_loadd(5, c2 + 16, 4 * ldc);
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
        _tile_loadd(7, b + k * b_k, 64);
        _tile_loadd(6, a + 32 * k, 2 * lda);
        _tile_dpbf16ps(0, 6, 7);
        _tile_loadd(6, a1 + 32 * k, 2 * lda);
        _tile_dpbf16ps(1, 6, 7);
        _tile_loadd(6, a2 + 32 * k, 2 * lda);
        _tile_dpbf16ps(2, 6, 7);
        _tile_loadd(7, b + b_n + k * b_k, 64);
        _tile_dpbf16ps(5, 6, 7);
        _tile_loadd(6, a1 + 32 * k, 2 * lda);
        _tile_dpbf16ps(4, 6, 7);
        _tile_loadd(6, a + 32 * k, 2 * lda);
        _tile_dpbf16ps(3, 6, 7);
    }
    _tile_stored(0, c, 4 * ldc);
    _tile_stored(1, c1, 4 * ldc);
    _tile_stored(2, c2, 4 * ldc);
    _tile_stored(3, c + 16, 4 * ldc);
    _tile_stored(4, c1 + 16, 4 * ldc);
    _tile_stored(5, c2 + 16, 4 * ldc);
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

/* More than 16 rows over a pair of column tiles and a part of k: pairs of row tiles, at the end three if their number is odd.
 * Between them they fetch the tiles at `next`. */
static inline void tile_pair(const ellm_bf16 *a, int64_t lda, int rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                             int k_tiles, float *c, int64_t ldc, int accumulate, const ellm_bf16 *next) {
    int blocks = (rows + 15) / 32, lines = 1; /* of a k tile of both columns that a block fetches */
    while (lines < TILE_LINES && lines * blocks < 2 * TILE_LINES) lines *= 2;
    for (int row = 0, first = 0; row < rows; first += lines) {
        const ellm_bf16 *from = next + first / TILE_LINES * b_n + first % TILE_LINES * 32;
        tile_fetch fetch = {from, first < 2 * TILE_LINES ? lines : 0, blocks == 1};
        const ellm_bf16 *x = a + row * lda;
        float *out = c + row * ldc;
        int left = rows - row;
        if (left > 32 && left <= 48) {
            tile_block_3x2(x, lda, b, b_n, b_k, k_tiles, out, ldc, accumulate, fetch);
            row += 48;
        } else {
            tile_block_2x2(x, lda, b, b_n, b_k, k_tiles, out, ldc, accumulate, fetch);
            row += 32;
        }
    }
}

/* More than 16 rows over pairs of column tiles. A that fits in L2 is passed over by one pair after the other, in deep parts
 * of k; of A that does not, a shallow part is passed over by all pairs. While a part is used, the next one is fetched, in
 * the end that of the columns behind. */
static inline void tile_pairs(const ellm_bf16 *a, int64_t lda, int rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                              int pairs, int k_tiles, float *c, int64_t ldc, int accumulate) {
    int stays = (int64_t)rows * k_tiles * 64 <= TILE_A_BYTES, depth = stays ? TILE_K_BLOCK : TILE_K_SHALLOW;
    int parts = (k_tiles + depth - 1) / depth;
    const ellm_bf16 *part = b;
    for (int step = 0, pair = 0, k = 0; step < parts * pairs; step++) {
        int next = step + 1, next_pair = stays ? next / parts : next % pairs;
        int next_k = depth * (stays ? next % parts : next / pairs), count = k_tiles - k < depth ? k_tiles - k : depth;
        const ellm_bf16 *ahead = b + 2 * next_pair * b_n + next_k * b_k;
        tile_pair(a + 32 * k, lda, rows, part, b_n, b_k, count, c + 32 * pair, ldc, accumulate || k, ahead);
        pair = next_pair, k = next_k, part = ahead;
    }
}

/* C[rows][16 * n_tiles] (= or +=) A[rows][32 * k_tiles] . B; tile (n, k) of B is at b + n * b_n + k * b_k elements.
 * Whole tiles of 16 rows are read from A and written to C. Every element of C is one chain over ascending k, so it does
 * not depend on what else is computed. */
static inline void tile_matmul(const ellm_bf16 *a, int64_t lda, int rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                               int n_tiles, int k_tiles, float *c, int64_t ldc, int accumulate) {
    int n = 0;
    __asm__ volatile("" ::: "memory"); /* gcc's tile loads do not say that they read memory */
    if (rows <= 16) {
        for (; n + 4 <= n_tiles; n += 4)
            tile_block_1x4(a, lda, b + n * b_n, b_n, b_k, k_tiles, c + 16 * n, ldc, accumulate);
    } else {
        tile_pairs(a, lda, rows, b, b_n, b_k, n_tiles / 2, k_tiles, c, ldc, accumulate);
        n = n_tiles / 2 * 2;
    }
    for (; n < n_tiles; n++)
        for (int row = 0; row < rows; row += 16)
            tile_block_1x1(a + row * lda, lda, b + n * b_n, b_k, k_tiles, c + row * ldc + 16 * n, ldc, accumulate);
}

#endif
