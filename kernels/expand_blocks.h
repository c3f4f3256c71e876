/* The formats of blocks, of GGUF and of integers: one code for all of them, by what ELLM_FORMATS says of each (format.py
 * gives the layout). It is inlined where the format is a constant, so that each format gets code of its own. */
#ifndef ELLM_EXPAND_BLOCKS_H
#define ELLM_EXPAND_BLOCKS_H
#define BLOCKED static inline __attribute__((always_inline))

/* Code k of column n of a tile, from its parts. */
BLOCKED uint32_t block_code(const char *tile, int64_t n, int64_t k, const ellm_format *f) {
    uint32_t code = 0;
    for (int64_t width = 8, low = 0; width; width /= 2) {
        if (!(f->bits & width)) continue;
        code |= word_code(tile, n, k, width) << low;
        low += width;
        tile += ELLM_TILE * width / 8;
    }
    return code;
}

static inline float block_half(const char *at) {
    uint16_t half;
    memcpy(&half, at, sizeof half);
    return f32_from_f16(half);
}

static inline float block_brain(const char *at) {
    ellm_bf16 bits;
    memcpy(&bits, at, sizeof bits);
    return f32_from_bf16(bits);
}

/* A scale or a minimum of column n. */
BLOCKED float block_number(const char *block, int64_t part, int64_t super, int64_t group, int64_t n, const ellm_format *f) {
    int64_t at = ELLM_TILE_N * group + n;
    if (f->bf16) return block_brain(block + part + 2 * at);
    if (!f->nested) return block_half(block + part + 2 * at);
    return block_half(block + super + 2 * n) * (float)((const int8_t *)block + part)[at];
}

BLOCKED float block_worth(uint32_t code, const ellm_format *f) {
    return f->table ? f->worth[code] : (float)((int)code - (int)f->zero);
}

/* What is subtracted from the worths of column n. */
BLOCKED float block_zero(const char *block, int64_t group, int64_t n, const ellm_format *f) {
    return f->zeros >= 0 ? (float)((const int8_t *)block + f->zeros)[ELLM_TILE_N * group + n] : 0;
}

/* Element k of column n of a block. */
BLOCKED float block_element(const char *block, int64_t n, int64_t k, const ellm_format *f) {
    const char *tile = block + f->header + k / ELLM_TILE_K * f->tile;
    float x = block_worth(block_code(tile, n, k % ELLM_TILE_K, f), f) - block_zero(block, k / f->group, n, f);
    x *= block_number(block, f->scale, f->super_scale, k / f->group, n, f);
    if (f->minimum >= 0) x += block_number(block, f->minimum, f->super_minimum, k / f->group, n, f);
    return f->terms > 1 ? f16_round(x) : f32_from_bf16(bf16_from_f32(x));
}

/* Expands tiles [first, first + count) of a block; what lies `ahead` bytes on is fetched. */
BLOCKED void expand_blocks_plain(const char *block, int first, int count, ellm_bf16 *restrict out,
                                 ellm_bf16 *restrict low, int64_t ahead, const ellm_format *f) {
    int64_t step = f->group < ELLM_TILE_K ? f->group : ELLM_TILE_K;
    for (int64_t begin = first * ELLM_TILE_K; begin < (first + count) * ELLM_TILE_K; begin += step)
        for (int64_t n = 0; n < ELLM_TILE_N; n++) {
            int64_t group = begin / f->group;
            float scale = block_number(block, f->scale, f->super_scale, group, n, f);
            float zero = block_zero(block, group, n, f);
            float minimum = f->minimum >= 0 ? block_number(block, f->minimum, f->super_minimum, group, n, f) : 0;
            for (int64_t k = begin; k < begin + step; k++) {
                const char *tile = block + f->header + k / ELLM_TILE_K * f->tile;
                float x = (block_worth(block_code(tile, n, k % ELLM_TILE_K, f), f) - zero) * scale;
                int64_t place = expand_place(n, k - first * ELLM_TILE_K);
                if (f->minimum >= 0) x += minimum;
                if (f->terms > 1)
                    float_split(f16_round(x), &out[place], &low[place]);
                else
                    out[place] = bf16_from_f32(x);
            }
        }
}

#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)
#include "expand_blocks_avx512.h"
#elif defined(__AVX2__)
#include "expand_blocks_avx2.h"
#else
#define EXPAND_BLOCKS expand_blocks_plain
#endif

#ifndef EXPAND_BLOCKS
#define EXPAND_BLOCKS expand_blocks

/* Makes gcc address what lies behind a pointer by it, rather than keep an address of each line, more than there are
 * registers. */
#define BLOCK_BASE(pointer) __asm__("" : "+r"(pointer))

/* Fetches what lies `ahead` bytes behind a tile, and behind the header if the tile is the first. */
BLOCKED void block_prefetch(const char *block, int tile, int64_t ahead, const ellm_format *f) {
    if (tile == 0)
        for (int64_t i = 0; i < f->header; i += 64) fetch_line(block + ahead + i);
    const char *at = block + f->header + tile * f->tile + ahead;
    BLOCK_BASE(at);
    for (int64_t i = 0; i < f->tile; i += 64) fetch_line(at + i);
}

/* As expand_blocks_plain, two rows of each tile at a time. */
BLOCKED void expand_blocks(const char *block, int first, int count, ellm_bf16 *out, ellm_bf16 *low, int64_t ahead,
                           const ellm_format *f) {
    for (int tile = first; tile < first + count; tile++, out += ELLM_TILE, low += ELLM_TILE) {
        const char *codes = block + f->header + tile * f->tile;
        block_scales scales;
        BLOCK_BASE(codes);
        block_prefetch(block, tile, ahead, f);
#pragma GCC unroll 8
        for (int step = 0; step < ELLM_TILE_K / 4; step++) {
            if (4 * step % f->group == 0) scales = block_scales_load(block, (ELLM_TILE_K * tile + 4 * step) / f->group, f);
            block_store(codes, step, &scales, out + 2 * ELLM_TILE_ROW * step, low + 2 * ELLM_TILE_ROW * step, f);
        }
    }
}
#endif

#endif
