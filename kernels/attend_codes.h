/* The two products of attention for few rows on keys and values in int8, whose codes become bf16 where they are used: the
 * sums of attend_tiles.h over tiles that are expanded before, in the same order. */
#ifndef ELLM_ATTEND_CODES_H
#define ELLM_ATTEND_CODES_H
#include "attend_tiles.h"
#include "cache.h"

#ifdef __AMX_BF16__
#include "tile_codes_amx.h"
#elif defined __AVX512BF16__
#include "tile_codes_avx512.h"
#endif

#define CODES_FEW ELLM_TILE_N /* most rows: of more, keys and values are better expanded once for all of them */
#define CODES_TILES 8         /* of keys or values that are expanded at a time, and stay in L1, where no registers do */

#ifndef TILE_CODES
/* Groups of `tiles` tiles that are expanded at a time, of `left`. */
static inline int64_t codes_part(int64_t tiles, int64_t left) {
    int64_t part = tiles < CODES_TILES ? CODES_TILES / tiles : 1;
    return left < part ? left : part;
}

/* attend_matmul of tiles that were just expanded: one column after the other, for which nothing is fetched. */
static inline void codes_matmul(const ellm_bf16 *a, int64_t lda, int64_t rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                                int64_t n_tiles, int64_t k_tiles, float *c, int64_t ldc, int accumulate) {
    for (int64_t n = 0; n < n_tiles; n++)
        tile_matmul(a, lda, (int)rows, b + n * b_n, b_n, b_k, 1, (int)k_tiles, c + ELLM_TILE_N * n, ldc, accumulate);
}
#endif

/* c = a . K^T for `count` groups of keys, which are `bytes` apart; at `next` is what is read after them. Tiles in bf16 of
 * a part of them fit at `tiles`. */
static inline void attend_key_codes(const ellm_bf16 *a, int64_t lda, int64_t rows, const char *groups, int64_t bytes,
                                    int64_t count, int64_t key_tiles, float *c, int64_t ldc, const char *next,
                                    ellm_bf16 *tiles) {
#ifdef TILE_CODES
    tile_codes(a, lda, (int)rows, groups, bytes, ELLM_TILE, (int)count, (int)key_tiles, c, ldc, next);
#else
    int64_t stride = key_tiles * ELLM_TILE;
    for (int64_t n = 0, part; n < count; n += part) {
        const char *from = groups + n * bytes;
        part = codes_part(key_tiles, count - n);
        cache_expand(from, part, bytes, stride, tiles, n + part < count ? part * bytes : next - from);
        codes_matmul(a, lda, rows, tiles, stride, ELLM_TILE, part, key_tiles, c + ELLM_TILE_N * n, ldc, 0);
    }
#endif
}

/* c = a . V for `count` groups of values; the rest as for keys. */
static inline void attend_value_codes(const ellm_bf16 *a, int64_t lda, int64_t rows, const char *groups, int64_t bytes,
                                      int64_t count, int64_t n_tiles, float *c, int64_t ldc, const char *next,
                                      ellm_bf16 *tiles) {
#ifdef TILE_CODES
    tile_codes(a, lda, (int)rows, groups, ELLM_TILE, bytes, (int)n_tiles, (int)count, c, ldc, next);
#else
    int64_t stride = n_tiles * ELLM_TILE;
    for (int64_t k = 0, part; k < count; k += part) {
        const char *from = groups + k * bytes;
        part = codes_part(n_tiles, count - k);
        cache_expand(from, part, bytes, stride, tiles, k + part < count ? part * bytes : next - from);
        codes_matmul(a + ELLM_TILE_K * k, lda, rows, tiles, ELLM_TILE, stride, n_tiles, part, c, ldc, k > 0);
    }
#endif
}

#endif
