/* expand_blocks.h by AVX-512, bit for bit. A step is four k of the 16 columns, a byte for each. */
#ifndef ELLM_EXPAND_BLOCKS_AVX512_H
#define ELLM_EXPAND_BLOCKS_AVX512_H

/* The numbers of a group of k for each column, scales times 2^-24, zeros times 2^24. */
typedef struct block_scales {
    __m512 scale, minimum, zero;
} block_scales;

BLOCKED __m512i block_signed(const char *at) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)at)); }

BLOCKED __m512 block_numbers(const char *block, int64_t part, int64_t super, int64_t group, const ellm_format *f) {
    if (f->bf16) return expand_half(_mm256_loadu_si256((const __m256i *)(block + part + 2 * ELLM_TILE_N * group)));
    if (!f->nested) return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(block + part + 2 * ELLM_TILE_N * group)));
    __m512 whole = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(block + super)));
    return _mm512_mul_ps(whole, _mm512_cvtepi32_ps(block_signed(block + part + ELLM_TILE_N * group)));
}

BLOCKED block_scales block_scales_load(const char *block, int64_t group, const ellm_format *f) {
    block_scales scales;
    scales.scale = block_numbers(block, f->scale, f->super_scale, group, f);
    /* Exact, as an f16 is at least 2^-24; of bf16, those of weights that are not subnormal. */
    scales.scale = _mm512_mul_ps(scales.scale, _mm512_set1_ps(0x1p-24f));
    const char *zeros = block + f->zeros + ELLM_TILE_N * group;
    if (f->zeros >= 0) scales.zero = _mm512_cvtepi32_ps(_mm512_slli_epi32(block_signed(zeros), 24));
    if (f->minimum >= 0) scales.minimum = block_numbers(block, f->minimum, f->super_minimum, group, f);
    return scales;
}

/* The codes of a step, a byte each, as words hold them. */
BLOCKED __m512i block_codes(const char *tile, int step, const ellm_format *f) {
    __m512i codes = _mm512_setzero_si512();
    int low = 0;
#pragma GCC unroll 4
    for (int width = 8; width; width /= 2) {
        if (!(f->bits & width)) continue;
        __m512i part = _mm512_loadu_si512(tile + 4 * ELLM_TILE_N * (step * width / 8));
        int shift = step * width % 8 - low; /* other codes of the word fill other bits */
        part = shift >= 0 ? _mm512_srli_epi32(part, (unsigned)shift) : _mm512_slli_epi32(part, (unsigned)-shift);
        codes = low ? _mm512_ternarylogic_epi32(_mm512_set1_epi8((char)((1 << low) - 1)), codes, part, 0xca) : part;
        low += width;
        tile += ELLM_TILE * width / 8;
    }
    return f->bits == 8 ? codes : _mm512_and_si512(codes, _mm512_set1_epi8((char)((1 << f->bits) - 1)));
}

/* What the codes of a step are worth, signed bytes. */
BLOCKED __m512i block_worths(__m512i codes, const ellm_format *f) {
    if (f->table) return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)f->worth)), codes);
    return f->zero ? _mm512_sub_epi8(codes, _mm512_set1_epi8((char)f->zero)) : codes;
}

/* Byte `byte` of each word of whole numbers, scaled. On its way it is 2^24 times as much. */
BLOCKED __m512 block_scaled(__m512i worths, int byte, const block_scales *scales, const ellm_format *f) {
    const __m512i to_top = _mm512_add_epi8(_mm512_set1_epi32((byte << 24) | 0x808080), _mm512_set_epi32(
        0xc000000, 0x8000000, 0x4000000, 0, 0xc000000, 0x8000000, 0x4000000, 0, 0xc000000, 0x8000000, 0x4000000, 0,
        0xc000000, 0x8000000, 0x4000000, 0));
    __m512 x = _mm512_cvtepi32_ps(_mm512_shuffle_epi8(worths, to_top));
    if (f->zeros >= 0) x = _mm512_sub_ps(x, scales->zero);
    x = _mm512_mul_ps(x, scales->scale);
    if (f->terms > 1) return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    return f->minimum >= 0 ? _mm512_add_ps(x, scales->minimum) : x;
}

/* The two rows of a step, 32 bf16 each; where there are two terms, in `low` what is left of them. */
BLOCKED void block_rows(const char *tile, int step, const block_scales *scales, __m512i rows[2], __m512i low[2],
                        const ellm_format *f) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                           5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m512i worths = block_worths(block_codes(tile, step, f), f);
    for (int row = 0; row < 2; row++) {
        __m512 even = block_scaled(worths, row, scales, f), odd = block_scaled(worths, row + 2, scales, f);
        __m512i rounded = expand_round(even, odd);
        rows[row] = _mm512_permutexvar_epi16(order, rounded);
        if (f->terms == 1) continue;
        even = _mm512_sub_ps(even, expand_half(_mm512_castsi512_si256(rounded)));
        odd = _mm512_sub_ps(odd, expand_half(_mm512_extracti64x4_epi64(rounded, 1)));
        low[row] = _mm512_permutexvar_epi16(order, expand_round(even, odd));
    }
}

/* The rows of a step, stored. */
BLOCKED void block_store(const char *tile, int step, const block_scales *scales, ellm_bf16 *out, ellm_bf16 *low,
                         const ellm_format *f) {
    __m512i rows[2], rest[2];
    block_rows(tile, step, scales, rows, rest, f);
    for (int row = 0; row < 2; row++) {
        _mm512_store_si512(out + ELLM_TILE_ROW * row, rows[row]);
        if (f->terms > 1) _mm512_store_si512(low + ELLM_TILE_ROW * row, rest[row]);
    }
}

#endif
