/* Where the block of a position is, writing one position of a KV head into its tiles, and values that are stored as the
 * first dims of the keys; task.h gives the layouts. */
#ifndef ELLM_CACHE_H
#define ELLM_CACHE_H
#ifdef __AVX512BW__
#include <immintrin.h>
#endif

#ifdef __AVX512VBMI__
#include "codes_avx512.h"
#endif
#include "fetch.h"
#include "vector.h"

#define CACHE_LINE 64

static inline int64_t k_tiles_of(int64_t n) { return (n + ELLM_TILE_K - 1) / ELLM_TILE_K; }
static inline int64_t n_tiles_of(int64_t n) { return (n + ELLM_TILE_N - 1) / ELLM_TILE_N; }

/* What offsets in a block count from, for the block with positions [ELLM_SPLIT * block, ...) of a sequence. With a stride
 * these lie in the sequence's own range, so far apart. */
static inline char *cache_block(const ellm_step *step, int64_t slot, int64_t block, int64_t block_stride) {
    return block_stride ? step->ranges[slot] + block * block_stride : step->blocks[slot * step->context_blocks + block];
}

/* keys is the head's first tile in a block, x its key at `position` of the block, f32 [head_dim]. */
static inline void cache_store_key(ellm_bf16 *keys, int64_t position, const float *x, int64_t head_dim) {
    ellm_bf16 *tile = keys + position / ELLM_TILE_N * k_tiles_of(head_dim) * ELLM_TILE + position % ELLM_TILE_N * 2;
    int64_t d = 0;
    for (; d + ELLM_TILE_K <= head_dim; d += ELLM_TILE_K) {
        ellm_bf16 part[ELLM_TILE_K];
        vector_to_bf16(x + d, part, ELLM_TILE_K);
        for (int i = 0; i < ELLM_TILE_K; i += 2) memcpy(tile + (d + i) / 2 * ELLM_TILE_ROW, part + i, 2 * sizeof *part);
    }
    for (; d + 1 < head_dim; d += 2) {
        ellm_bf16 two[2] = {bf16_from_f32(x[d]), bf16_from_f32(x[d + 1])};
        memcpy(tile + d / 2 * ELLM_TILE_ROW, two, sizeof two);
    }
    if (head_dim % 2) tile[head_dim / 2 * ELLM_TILE_ROW] = bf16_from_f32(x[head_dim - 1]);
}

/* values is the head's first tile in a block, x its value at `position` of the block, f32 [head_dim]. */
static inline void cache_store_value(ellm_bf16 *values, int64_t position, const float *x, int64_t head_dim) {
    ellm_bf16 *tile = values + position / ELLM_TILE_K * n_tiles_of(head_dim) * ELLM_TILE;
    tile += position % ELLM_TILE_K / 2 * ELLM_TILE_ROW + position % 2;
    for (int64_t d = 0; d < head_dim; d++) tile[d / ELLM_TILE_N * ELLM_TILE + d % ELLM_TILE_N * 2] = bf16_from_f32(x[d]);
}

/* cache_store_value for the position after it too, with the values at x + stride; `position` is even. */
static inline void cache_store_two_values(ellm_bf16 *values, int64_t position, const float *restrict x, int64_t stride,
                                          int64_t head_dim) {
    ellm_bf16 *restrict tile = values + position / ELLM_TILE_K * n_tiles_of(head_dim) * ELLM_TILE;
    tile += position % ELLM_TILE_K / 2 * ELLM_TILE_ROW;
    int64_t d = 0;
    for (; d + ELLM_TILE_N <= head_dim; d += ELLM_TILE_N, tile += ELLM_TILE) {
        uint32_t two[ELLM_TILE_N];
        for (int i = 0; i < ELLM_TILE_N; i++)
            two[i] = bf16_from_f32(x[d + i]) | (uint32_t)bf16_from_f32(x[stride + d + i]) << 16;
        memcpy(tile, two, sizeof two);
    }
    for (int64_t i = 0; d + i < head_dim; i++) {
        tile[2 * i] = bf16_from_f32(x[d + i]);
        tile[2 * i + 1] = bf16_from_f32(x[stride + d + i]);
    }
}

/* x = H x / sqrt(n) with Sylvester's Hadamard matrix, for n a power of two: what is large in one dim is spread over all. */
static inline void cache_turn(float *x, int64_t n) {
    for (int64_t width = 1; width < n; width *= 2)
        for (int64_t first = 0; first < n; first += 2 * width)
            for (int64_t i = first; i < first + width; i++) {
                float a = x[i], b = x[i + width];
                x[i] = a + b;
                x[i + width] = a - b;
            }
    float scale = 1.0f / sqrtf((float)n);
    for (int64_t i = 0; i < n; i++) x[i] *= scale;
}

/* x = codes * the scale that is returned, codes rounded to nearest, ties to even. */
static inline float cache_codes(const float *restrict x, int64_t n, int8_t *restrict codes) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    float most = 0;
    for (int64_t i = 0; i < n; i++) {
        float size = fabsf(x[i]);
        most = size > most ? size : most;
    }
    float inverse = most > 0 ? 127.0f / most : 0;
    for (int64_t i = 0; i < n; i++) codes[i] = (int8_t)(int32_t)((x[i] * inverse + magic) - magic);
    return most / 127.0f;
}

/* Bytes of the ELLM_TILE_N keys, or ELLM_TILE_K values, that share tiles in int8, with their scales. */
static inline int64_t cache_key_bytes(int64_t head_dim) {
    return k_tiles_of(head_dim) * ELLM_TILE + ELLM_TILE_N * (int64_t)sizeof(float);
}
static inline int64_t cache_value_bytes(int64_t head_dim) {
    return n_tiles_of(head_dim) * ELLM_TILE + ELLM_TILE_K * (int64_t)sizeof(float);
}

/* cache_store_key in int8; the key is turned already. */
static inline void cache_store_key_int8(char *keys, int64_t position, const float *x, int64_t head_dim) {
    int8_t codes[ELLM_CACHE_DIMS], *tile = (int8_t *)keys + position / ELLM_TILE_N * cache_key_bytes(head_dim);
    int64_t place = position % ELLM_TILE_N;
    float scale = cache_codes(x, head_dim, codes);
    memcpy(tile + k_tiles_of(head_dim) * ELLM_TILE + place * (int64_t)sizeof scale, &scale, sizeof scale);
    for (int64_t d = 0; d < head_dim; d++) tile[d / 2 * ELLM_TILE_ROW + 2 * place + d % 2] = codes[d];
}

/* cache_store_value in int8. */
static inline void cache_store_value_int8(char *values, int64_t position, const float *x, int64_t head_dim) {
    int8_t codes[ELLM_CACHE_DIMS], *tile = (int8_t *)values + position / ELLM_TILE_K * cache_value_bytes(head_dim);
    int64_t place = position % ELLM_TILE_K, row = place / 2 * ELLM_TILE_ROW + place % 2;
    float scale = cache_codes(x, head_dim, codes);
    memcpy(tile + n_tiles_of(head_dim) * ELLM_TILE + place * (int64_t)sizeof scale, &scale, sizeof scale);
    for (int64_t d = 0; d < head_dim; d++) tile[d / ELLM_TILE_N * ELLM_TILE + row + d % ELLM_TILE_N * 2] = codes[d];
}

/* The codes of a tile as bf16. */
static inline void cache_expand_tile(const int8_t *restrict codes, ellm_bf16 *restrict tile) {
#ifdef __AVX512VBMI__
    codes_decoder decoder = codes_decoder_load();
    for (int i = 0; i < ELLM_TILE; i += 2 * ELLM_TILE_ROW) {
        __m512i rows[2];
        codes_rows((const char *)codes + i, &decoder, rows);
        memcpy(tile + i, rows, sizeof rows);
    }
#else
    for (int i = 0; i < ELLM_TILE; i++) tile[i] = (ellm_bf16)(bits_of((float)codes[i]) >> 16); /* 8 bits fit */
#endif
}

/* `count` groups of `codes` codes, `bytes` apart, as bf16 tiles without gaps. What lies `ahead` bytes on is fetched. */
static inline void cache_expand(const char *groups, int64_t count, int64_t bytes, int64_t codes, ellm_bf16 *tiles,
                                int64_t ahead) {
    for (int64_t group = 0; group < count; group++)
        for (int64_t tile = 0; tile < codes; tile += ELLM_TILE, tiles += ELLM_TILE) {
            const char *from = groups + group * bytes + tile;
            for (int line = 0; line < ELLM_TILE; line += CACHE_LINE) fetch_line(from + ahead + line);
            cache_expand_tile((const int8_t *)from, tiles);
        }
}

/* The scales of `count` groups, which are behind their codes. */
static inline void cache_scales(const char *groups, int64_t count, int64_t bytes, int64_t positions, float *scales) {
    int64_t size = positions * (int64_t)sizeof *scales;
    for (int64_t group = 0; group < count; group++, scales += positions)
        memcpy(scales, groups + (group + 1) * bytes - size, (size_t)size);
}

static inline void cache_scales_prefetch(const char *groups, int64_t count, int64_t bytes, int64_t positions) {
    int64_t size = positions * (int64_t)sizeof(float);
    for (int64_t group = 1; group <= count; group++)
        for (int64_t at = 0; at < size; at += CACHE_LINE) fetch_line(groups + group * bytes - size + at);
}

/* The keys of the first `rows` positions from the key tile `keys` on, as rows of ELLM_TILE_K * key_tiles dims, `stride`
 * apart. */
static inline void cache_load_keys(const ellm_bf16 *keys, int64_t key_tiles, int64_t rows, ellm_bf16 *out, int64_t stride) {
    for (int64_t row = 0; row < rows; row++) {
        const ellm_bf16 *key = keys + row / ELLM_TILE_N * key_tiles * ELLM_TILE + row % ELLM_TILE_N * 2;
        for (int64_t pair = 0; pair < ELLM_TILE_PAIRS * key_tiles; pair++)
            memcpy(out + row * stride + 2 * pair, key + ELLM_TILE_ROW * pair, 2 * sizeof *out);
    }
}

/* A key tile has 16 pairs of dims of 16 keys, value tiles have pairs of keys; what two of each have in common, 64 bits
 * that hold 2 dims of 2 keys, moves whole. Takes 8 pairs of dims and writes 8 pairs of keys of a value tile. */
#ifdef __AVX512BW__
static inline void cache_transpose(const ellm_bf16 *keys, ellm_bf16 *values) {
    const __m512i swap = _mm512_set4_epi32(0x0f0e0b0a, 0x0d0c0908, 0x07060302, 0x05040100); /* the middle two of 4 */
    __m512i row[8], pair[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) row[i] = _mm512_shuffle_epi8(_mm512_loadu_si512(keys + ELLM_TILE_ROW * i), swap);
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        pair[i] = _mm512_unpacklo_epi64(row[i], row[i + 1]);
        pair[i + 1] = _mm512_unpackhi_epi64(row[i], row[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        __m512i a = _mm512_shuffle_i64x2(pair[i], pair[i + 2], 0x44);
        __m512i b = _mm512_shuffle_i64x2(pair[i + 4], pair[i + 6], 0x44);
        __m512i c = _mm512_shuffle_i64x2(pair[i], pair[i + 2], 0xee);
        __m512i d = _mm512_shuffle_i64x2(pair[i + 4], pair[i + 6], 0xee);
        _mm512_storeu_si512(values + ELLM_TILE_ROW * i, _mm512_shuffle_i64x2(a, b, 0x88));
        _mm512_storeu_si512(values + ELLM_TILE_ROW * (i + 2), _mm512_shuffle_i64x2(a, b, 0xdd));
        _mm512_storeu_si512(values + ELLM_TILE_ROW * (i + 4), _mm512_shuffle_i64x2(c, d, 0x88));
        _mm512_storeu_si512(values + ELLM_TILE_ROW * (i + 6), _mm512_shuffle_i64x2(c, d, 0xdd));
    }
}
#else
static inline void cache_transpose(const ellm_bf16 *keys, ellm_bf16 *values) {
    for (int d = 0; d < 8; d++)
        for (int s = 0; s < 8; s++) {
            uint64_t x;
            memcpy(&x, keys + ELLM_TILE_ROW * d + 4 * s, sizeof x);
            x = (x & 0xffff00000000ffffu) | (x >> 16 & 0xffff0000u) | (x & 0xffff0000u) << 16;
            memcpy(values + ELLM_TILE_ROW * s + 4 * d, &x, sizeof x);
        }
}
#endif

/* Value tiles [n_tiles][k_tiles] of ELLM_TILE_K * k_tiles positions, whose values are the dims of the keys from the
 * first of the key tile `keys` on. A position tile has key_tiles key tiles. */
static inline void cache_values_of_keys(const ellm_bf16 *keys, int64_t key_tiles, int64_t k_tiles, int64_t n_tiles,
                                        ellm_bf16 *values) {
    for (int64_t s = 0; s < 2 * k_tiles; s++)
        for (int64_t n = 0; n < n_tiles; n++) {
            const ellm_bf16 *key = keys + (s * key_tiles + n / 2) * ELLM_TILE + n % 2 * (ELLM_TILE / 2);
            cache_transpose(key, values + (n * k_tiles + s / 2) * ELLM_TILE + s % 2 * (ELLM_TILE / 2));
        }
}

#endif
