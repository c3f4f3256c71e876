/* Products with a packed weight in any format: what is not bf16 is expanded to bf16 tiles, a few at a time.
 *
 * For each format of ELLM_EXPANDED there are, in plain C, `<name>_element`, what an element is worth, and
 * `expand_<name>_plain`, which expands tiles [first, first + count) of a block of a column tile (formats.py gives the
 * layouts). Where that is not fast enough, expand_avx512.h and expand_avx2.h do the same by intrinsics, and say so by a
 * macro EXPAND_<NAME>. Sums go over ascending k through C, so a product is bitwise equal to one with the weight expanded
 * beforehand.
 */
#ifndef ELLM_EXPAND_H
#define ELLM_EXPAND_H
#include "fetch.h"
#include "vector.h"

#define EXPAND_COLUMNS 4 /* column tiles expanded at a time, which are read side by side */
#define EXPAND_DEPTH 16  /* most k tiles of them */
#define EXPAND_SHALLOW 4 /* of EXPAND_FEW rows, which do not pay for that many */
#define EXPAND_FEW 16

/* Bytes of a block of one column tile, its header included. */
static inline int64_t block_bytes(int64_t format) {
    return ELLM_FORMATS[format].header + ELLM_FORMATS[format].block * ELLM_FORMATS[format].tile;
}

/* Bytes of one column tile. */
static inline int64_t column_bytes(int64_t format, int64_t k_tiles) {
    if (!ELLM_FORMATS[format].header) return k_tiles * ELLM_FORMATS[format].tile;
    return (k_tiles + ELLM_FORMATS[format].block - 1) / ELLM_FORMATS[format].block * block_bytes(format);
}

/* Where element k of column n of a column tile is, in elements. */
static inline int64_t expand_place(int64_t n, int64_t k) { return k / 2 * ELLM_TILE_ROW + 2 * n + k % 2; }

/* Code k of column n in a part of `width` bits a code: format.py says how words hold them. */
static inline uint32_t word_code(const char *part, int64_t n, int64_t k, int64_t width) {
    uint32_t word;
    int64_t each = 32 / width, byte = (k & 1) << 1 | (k >> 1 & 1);
    memcpy(&word, part + (k / each * ELLM_TILE_N + n) * (int64_t)sizeof word, sizeof word);
    return word >> (8 * byte + k % each / 4 * width) & ((1u << width) - 1);
}

/* A float with few bits: `bits` are its exponent and mantissa, the mantissa moved up to where f32 has it, `bias` is what
 * f32's exponent bias has more than its own. Subnormals are made by subtraction, as arithmetic on f32 ones is slow. */
static inline float float_widen(uint32_t bits, uint32_t bias) {
    float least = float_of((bias + 1) << 23);
    return bits < 1u << 23 ? float_of(bits + ((bias + 1) << 23)) - least : float_of(bits + (bias << 23));
}

static inline float float_signed(float magnitude, uint32_t negative) {
    return float_of(bits_of(magnitude) | negative << 31);
}

/* Few weights are E4M3 subnormals, so that here they may be f32 ones on the way. */
static inline float f32_from_e4m3(uint32_t code) {
    float x = float_of((code & 0x80) << 24 | (code & 0x7f) << 20) * 0x1p120f;
    return (code & 0x7f) == 0x7f ? x * NAN : x;
}

static inline float f32_from_e2m1(uint32_t code) { return float_signed(float_widen((code & 7) << 22, 126), code >> 3 & 1); }

/* 2^(code - 127); infinite for 255. */
static inline float f32_from_e8m0(uint32_t code) { return float_of(code ? code << 23 : 1u << 22); }

static inline float f32_from_f16(uint32_t half) {
    float magnitude = float_widen((half & 0x7fff) << 13, 112);
    return float_signed((half & 0x7c00) == 0x7c00 ? float_of(0x7f800000 | (half & 0x3ff) << 13) : magnitude, half >> 15);
}

/* x rounded to f16, to nearest even; infinite beyond its numbers. Where f16 has subnormals, a sum with a number of the
 * right size rounds. */
static inline float f16_round(float x) {
    float magnitude = float_of(bits_of(x) & 0x7fffffff);
    float rounded = magnitude + 0.75f - 0.75f;
    if (magnitude >= 0x1p-14f) rounded = float_of((bits_of(magnitude) + 0xfff + (bits_of(magnitude) >> 13 & 1)) & ~0x1fffu);
    if (rounded > 65504) rounded = float_of(0x7f800000);
    return float_signed(rounded, bits_of(x) >> 31);
}

static inline float fp8_element(const char *block, int64_t n, int64_t k) {
    float scale;
    memcpy(&scale, block + n * sizeof scale, sizeof scale);
    uint8_t code = block[ELLM_FP8_HEADER + expand_place(n, k)];
    return f32_from_bf16(bf16_from_f32(f32_from_e4m3(code) * scale));
}

static inline void expand_fp8_plain(const char *block, int first, int count, ellm_bf16 *restrict out, ellm_bf16 *low,
                                    int64_t ahead) {
    const uint8_t *codes = (const uint8_t *)block + ELLM_FP8_HEADER + ELLM_TILE * first;
    float scale[ELLM_TILE_ROW];
    for (int i = 0; i < ELLM_TILE_ROW; i++) memcpy(&scale[i], block + i / 2 * sizeof(float), sizeof(float));
    for (int row = 0; row < ELLM_TILE_PAIRS * count; row++)
        for (int i = 0; i < ELLM_TILE_ROW; i++)
            out[ELLM_TILE_ROW * row + i] = bf16_from_f32(f32_from_e4m3(codes[ELLM_TILE_ROW * row + i]) * scale[i]);
}

static inline float mxfp4_element(const char *block, int64_t n, int64_t k) {
    float scale = f32_from_e8m0((uint8_t)block[k / ELLM_TILE_K * ELLM_TILE_N + n]);
    const char *tile = block + ELLM_MXFP4_HEADER + k / ELLM_TILE_K * ELLM_TILE / 2;
    return f32_from_bf16(bf16_from_f32(f32_from_e2m1(word_code(tile, n, k % ELLM_TILE_K, 4)) * scale));
}

static inline void expand_mxfp4_plain(const char *block, int first, int count, ellm_bf16 *restrict out, ellm_bf16 *low,
                                      int64_t ahead) {
    const uint8_t *scales = (const uint8_t *)block;
    for (int tile = first; tile < first + count; tile++)
        for (int n = 0; n < ELLM_TILE_N; n++) {
            const char *codes = block + ELLM_MXFP4_HEADER + tile * ELLM_TILE / 2;
            float scale = f32_from_e8m0(scales[ELLM_TILE_N * tile + n]);
            for (int k = 0; k < ELLM_TILE_K; k++)
                out[expand_place(n, ELLM_TILE_K * (tile - first) + k)] =
                    bf16_from_f32(f32_from_e2m1(word_code(codes, n, k, 4)) * scale);
        }
}

static inline float f16_element(const char *block, int64_t n, int64_t k) {
    uint16_t half;
    memcpy(&half, block + expand_place(n, k) * sizeof half, sizeof half);
    return f32_from_f16(half);
}

/* A number of f16 as two of bf16, the bits that one has and what is left. */
static inline void float_split(float x, ellm_bf16 *high, ellm_bf16 *low) {
    *high = (ellm_bf16)(bits_of(x) >> 16);
    *low = bf16_from_f32(x - f32_from_bf16(*high));
}

static inline void expand_f16_plain(const char *block, int first, int count, ellm_bf16 *restrict high, ellm_bf16 *restrict low,
                                    int64_t ahead) {
    for (int i = 0; i < ELLM_TILE * count; i++) {
        uint16_t half;
        memcpy(&half, block + (ELLM_TILE * first + i) * sizeof half, sizeof half);
        float_split(f32_from_f16(half), &high[i], &low[i]);
    }
}

#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)
#include "expand_avx512.h"
#elif defined(__AVX2__)
#include "expand_avx2.h"
#endif
#ifndef EXPAND_F16
#define EXPAND_F16 expand_f16_plain
#endif
#ifndef EXPAND_FP8
#define EXPAND_FP8 expand_fp8_plain
#endif
#ifndef EXPAND_MXFP4
#define EXPAND_MXFP4 expand_mxfp4_plain
#endif

#include "expand_bf12.h"
#include "expand_blocks.h"
#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)
#ifndef __AMX_TILE__
#include "row_avx512.h"
#include "matmul_bf12_avx512.h"
#endif
#elif defined(__AVX2__)
#include "row_avx2.h"
#endif

#ifndef EXPAND_ROW
/* The product of one row with tiles that are expanded in registers: here there is none. */
static inline int row_multiply(const ellm_bf16 *a, const char *column, int64_t stride, int64_t format, int k, int count,
                               float *c, int accumulate, int64_t ahead) {
    return 0;
}
#endif

/* One element of a column tile: column n, element k; exact if the format has several terms, else a bf16 number. */
static inline float expand_element(const char *column, int64_t format, int64_t n, int64_t k) {
    int64_t block_k = ELLM_TILE_K * ELLM_FORMATS[format].block;
    const char *block = column + k / block_k * block_bytes(format);
    k %= block_k;
    ellm_bf16 bits;
    switch (format) {
#define ELEMENT(NAME, name) case ELLM_##NAME: return name##_element(block, n, k);
#define BLOCK_ELEMENT(NAME, name) case ELLM_##NAME: return block_element(block, n, k, &ELLM_FORMATS[ELLM_##NAME]);
        ELLM_EXPANDED(ELEMENT)
        ELLM_BLOCKED(BLOCK_ELEMENT)
#undef BLOCK_ELEMENT
#undef ELEMENT
    }
    memcpy(&bits, block + expand_place(n, k) * sizeof bits, sizeof bits);
    return f32_from_bf16(bits);
}

/* Expands k tiles [k, k + count) of a column tile; what lies `ahead` bytes on is fetched. */
BLOCKED void expand_column(const char *column, int64_t format, int k, int count, ellm_bf16 *high, ellm_bf16 *low,
                                 int64_t ahead) {
    int whole = (int)ELLM_FORMATS[format].block;
    while (count > 0) {
        const char *block = column + k / whole * block_bytes(format);
        int first = k % whole, tiles = count < whole - first ? count : whole - first;
        switch (format) {
#define EXPAND(NAME, name)                             \
    case ELLM_##NAME:                                         \
        EXPAND_##NAME(block, first, tiles, high, low, ahead); \
        break;
#define EXPAND_BLOCK(NAME, name)                                                           \
    case ELLM_##NAME:                                                                      \
        EXPAND_BLOCKS(block, first, tiles, high, low, ahead, &ELLM_FORMATS[ELLM_##NAME]); \
        break;
            ELLM_EXPANDED(EXPAND)
            ELLM_BLOCKED(EXPAND_BLOCK)
#undef EXPAND_BLOCK
#undef EXPAND
        }
        k += tiles;
        count -= tiles;
        high += tiles * ELLM_TILE;
        low += tiles * ELLM_TILE;
    }
}

#ifdef __AMX_TILE__
#include "expand_amx.h"
#else

/* k tiles expanded at a time. Few rows: expansion and product take turns within L1. Many: sums pass through C seldom. Two
 * terms are added in turn, so that the depth decides the order of the sum and is always the same. */
static inline int expand_depth(int64_t format, int rows) {
    return ELLM_FORMATS[format].terms > 1 || rows <= EXPAND_FEW ? EXPAND_SHALLOW : EXPAND_DEPTH;
}

/* C[rows][ELLM_TILE_N * n_tiles] = A[rows][ELLM_TILE_K * k_tiles] . W for at most EXPAND_COLUMNS column tiles, `stride`
 * bytes apart. */
static inline void expand_multiply(const ellm_bf16 *a, int64_t lda, int rows, const char *weight, int64_t stride,
                                   int64_t format, int n_tiles, int k_tiles, float *c, int64_t ldc, ellm_bf16 *high) {
    int depth = expand_depth(format, rows);
    int64_t column = depth * ELLM_TILE;
    ellm_bf16 *low = high + EXPAND_COLUMNS * column;
    for (int k = 0; k < k_tiles; k += depth) {
        int count = k_tiles - k < depth ? k_tiles - k : depth;
        int parts = fetch_parts(column_bytes(format, depth));
        int64_t ahead = column_bytes(format, parts * depth); /* past the end: in the next column tiles */
        if (k + parts * depth >= k_tiles) ahead += (n_tiles - 1) * stride;
        if (rows == 1 && n_tiles == EXPAND_COLUMNS &&
            row_multiply(a + ELLM_TILE_K * k, weight, stride, format, k, count, c, k > 0, ahead))
            continue;
        for (int n = 0; n < n_tiles; n++)
            expand_column(weight + n * stride, format, k, count, high + n * column, low + n * column, ahead);
        tile_matmul(a + ELLM_TILE_K * k, lda, rows, high, column, ELLM_TILE, n_tiles, count, c, ldc, k > 0);
        if (ELLM_FORMATS[format].terms > 1)
            tile_matmul(a + ELLM_TILE_K * k, lda, rows, low, column, ELLM_TILE, n_tiles, count, c, ldc, 1);
    }
}

/* C[rows][ELLM_TILE_N * n_tiles] = A[rows][ELLM_TILE_K * k_tiles] . W, of a format that is expanded. `tiles` is ELLM_EXPAND
 * bytes. */
static inline void expand_matmul(const ellm_bf16 *a, int64_t lda, int rows, const char *weight, int64_t format, int n_tiles,
                                 int k_tiles, float *c, int64_t ldc, ellm_bf16 *tiles) {
    int64_t stride = column_bytes(format, k_tiles);
    int done = 0;
#ifdef MATMUL_BF12
    if (format == ELLM_BF12) {
        done = n_tiles / TILE_STREAMS * TILE_STREAMS;
        matmul_bf12(a, lda, rows, weight, done, k_tiles, c, ldc, tiles);
    }
#endif
    for (int n = done; n < n_tiles; n += EXPAND_COLUMNS) {
        int columns = n_tiles - n < EXPAND_COLUMNS ? n_tiles - n : EXPAND_COLUMNS;
        expand_multiply(a, lda, rows, weight + n * stride, stride, format, columns, k_tiles, c + ELLM_TILE_N * n, ldc, tiles);
    }
}
#endif

/* C[rows][ELLM_TILE_N * n_tiles] = A[rows][ELLM_TILE_K * k_tiles] . W, a packed weight of any format. `tiles` is
 * ELLM_EXPAND bytes. */
static inline void weight_matmul(const ellm_bf16 *a, int64_t lda, int rows, const char *weight, int64_t format,
                                 int n_tiles, int k_tiles, float *c, int64_t ldc, ellm_bf16 *tiles) {
    const ellm_bf16 *b = (const ellm_bf16 *)weight;
    int64_t column = (int64_t)k_tiles * ELLM_TILE;
    if (format == ELLM_BF16)
        tile_from_memory(a, lda, rows, b, column, ELLM_TILE, n_tiles, k_tiles, c, ldc, 0, b + n_tiles * column);
    else
        expand_matmul(a, lda, rows, weight, format, n_tiles, k_tiles, c, ldc, tiles);
}

#endif
