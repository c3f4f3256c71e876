/* Writing one position of a KV head into its tiles; task.h gives their layout. */
#ifndef ELLM_CACHE_H
#define ELLM_CACHE_H
#include "vector.h"

static inline int64_t tiles_of_32(int64_t n) { return (n + 31) / 32; }
static inline int64_t tiles_of_16(int64_t n) { return (n + 15) / 16; }

/* keys is the head's first tile, x its key at `position`, f32 [head_dim]. */
static inline void cache_store_key(ellm_bf16 *keys, int64_t position, const float *x, int64_t head_dim) {
    ellm_bf16 *tile = keys + position / 16 * tiles_of_32(head_dim) * ELLM_TILE + position % 16 * 2;
    for (int64_t d = 0; d < head_dim; d++) tile[d / 2 * 32 + d % 2] = bf16_from_f32(x[d]);
}

/* values is the head's first tile, x its value at `position`, f32 [head_dim]. */
static inline void cache_store_value(ellm_bf16 *values, int64_t position, const float *x, int64_t head_dim) {
    ellm_bf16 *tile = values + position / 32 * tiles_of_16(head_dim) * ELLM_TILE;
    tile += position % 32 / 2 * 32 + position % 2;
    for (int64_t d = 0; d < head_dim; d++) tile[d / 16 * ELLM_TILE + d % 16 * 2] = bf16_from_f32(x[d]);
}

#endif
