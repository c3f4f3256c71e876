/* tile_matmul for at most TILE_M rows of A and a B whose numbers are codes of a byte: each becomes a bf16 tile, which is
 * multiplied behind the expansion of the next one, as in expand_amx.h. */
#ifndef ELLM_TILE_CODES_AMX_H
#define ELLM_TILE_CODES_AMX_H
#include "cache.h"
#include "expand.h"

#define CODES_COLUMNS 4 /* column tiles side by side: a sum waits for the one before it */
#define CODES_AHEAD 4   /* k tiles of them that prefetch runs ahead */

/* C = A . B of N column tiles; tile (n, k) of B is at b + n * b_n + k * b_k, in bytes. At `next` is what is read after them. N is a
 * constant where this is inlined. */
BLOCKED void codes_columns(const int N, const ellm_bf16 *a, int64_t lda, const char *b, int64_t b_n, int64_t b_k, int k_tiles,
                           float *c, int64_t ldc, const char *next) {
    ellm_bf16 tiles[CODES_COLUMNS * ELLM_TILE] __attribute__((aligned(64)));
    const ellm_bf16 *last = 0; /* the tile that is not multiplied yet */
    amx_begin();
    for (int k = 0; k < k_tiles; k++) {
        const char *ahead = k + CODES_AHEAD < k_tiles ? b + (k + CODES_AHEAD) * b_k : next + (k + CODES_AHEAD - k_tiles) * b_k;
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) {
            ellm_bf16 *tile = tiles + (N > 1 ? n : k % CODES_COLUMNS) * ELLM_TILE;
            for (int line = 0; line < ELLM_TILE; line += TILE_LINE) fetch_line(ahead + n * b_n + line);
            cache_expand_tile((const int8_t *)b + n * b_n + k * b_k, tile);
            if (last) amx_multiply_tile((n + N - 1) % N, last);
            if (n == 0) _tile_loadd(4, a + ELLM_TILE_K * k, 2 * lda);
            last = tile;
        }
    }
    amx_multiply_tile(N - 1, last);
    amx_end(N, c, ldc);
}

/* C = A . B of all column tiles, of which whole tiles of rows are read and written. */
static inline void tile_codes(const ellm_bf16 *a, int64_t lda, int rows, const char *b, int64_t b_n, int64_t b_k, int n_tiles,
                              int k_tiles, float *c, int64_t ldc, const char *next) {
    int n = 0;
    (void)rows;
    for (int step; n < n_tiles; n += step) {
        step = n + CODES_COLUMNS <= n_tiles ? CODES_COLUMNS : 1;
        const char *column = b + n * b_n, *behind = n + step < n_tiles ? column + step * b_n : next;
        if (step == CODES_COLUMNS)
            codes_columns(CODES_COLUMNS, a, lda, column, b_n, b_k, k_tiles, c + ELLM_TILE_N * n, ldc, behind);
        else
            codes_columns(1, a, lda, column, b_n, b_k, k_tiles, c + ELLM_TILE_N * n, ldc, behind);
    }
}

#endif
