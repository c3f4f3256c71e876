/* expand_blocks.h by AVX2, bit for bit. A step is four k of the 16 columns, a byte for each, by halves of the columns. */
#ifndef ELLM_EXPAND_BLOCKS_AVX2_H
#define ELLM_EXPAND_BLOCKS_AVX2_H

/* The numbers of a group of k for each column, by halves of the columns; scales times 2^-24, zeros times 2^24. */
typedef struct block_scales {
    __m256 scale[2], minimum[2], zero[2];
} block_scales;

BLOCKED __m256 block_halves(const char *at) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at)); }

BLOCKED __m256 block_brains(const char *at) {
    return (__m256)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)at)), 16);
}

BLOCKED __m256i block_signed(const char *at) { return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)at)); }

BLOCKED __m256 block_numbers(const char *block, int64_t part, int64_t super, int64_t group, int half, const ellm_format *f) {
    int64_t at = ELLM_TILE_N * group + ELLM_TILE_N / 2 * half;
    if (f->bf16) return block_brains(block + part + 2 * at);
    if (!f->nested) return block_halves(block + part + 2 * at);
    return _mm256_mul_ps(block_halves(block + super + ELLM_TILE_N * half), _mm256_cvtepi32_ps(block_signed(block + part + at)));
}

BLOCKED block_scales block_scales_load(const char *block, int64_t group, const ellm_format *f) {
    block_scales scales;
    for (int half = 0; half < 2; half++) {
        __m256 scale = block_numbers(block, f->scale, f->super_scale, group, half, f);
        scales.scale[half] = _mm256_mul_ps(scale, _mm256_set1_ps(0x1p-24f)); /* exact, as an f16 is at least 2^-24; of bf16, those
                                                                             * of weights that are not subnormal */
        const char *zeros = block + f->zeros + ELLM_TILE_N * group + ELLM_TILE_N / 2 * half;
        if (f->zeros >= 0) scales.zero[half] = _mm256_cvtepi32_ps(_mm256_slli_epi32(block_signed(zeros), 24));
        if (f->minimum >= 0) scales.minimum[half] = block_numbers(block, f->minimum, f->super_minimum, group, half, f);
    }
    return scales;
}

/* The codes of a step of half the columns, a byte each, as words hold them. */
BLOCKED __m256i block_codes(const char *tile, int step, int half, const ellm_format *f) {
    __m256i codes = _mm256_setzero_si256();
    int low = 0;
#pragma GCC unroll 4
    for (int width = 8; width; width /= 2) {
        if (!(f->bits & width)) continue;
        __m256i part = _mm256_loadu_si256((const __m256i *)(tile + 4 * ELLM_TILE_N * (step * width / 8)) + half);
        int shift = step * width % 8 - low;
        part = shift >= 0 ? _mm256_srli_epi32(part, shift) : _mm256_slli_epi32(part, -shift);
        if (width < 8) part = _mm256_and_si256(part, _mm256_set1_epi8((char)(((1 << width) - 1) << low)));
        codes = low ? _mm256_or_si256(codes, part) : part;
        low += width;
        tile += ELLM_TILE * width / 8;
    }
    return codes;
}

/* What the codes of a step are worth, signed bytes. */
BLOCKED __m256i block_worths(__m256i codes, const ellm_format *f) {
    if (f->table)
        return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)f->worth)), codes);
    return f->zero ? _mm256_sub_epi8(codes, _mm256_set1_epi8((char)f->zero)) : codes;
}

/* Byte `byte` of each word of whole numbers, scaled. On its way it is 2^24 times as much. */
BLOCKED __m256 block_scaled(__m256i worths, int byte, const block_scales *scales, int half, const ellm_format *f) {
    worths = byte == 3 ? worths : _mm256_slli_epi32(worths, 24 - 8 * byte);
    if (byte) worths = _mm256_and_si256(worths, _mm256_set1_epi32((int)0xff000000));
    __m256 x = _mm256_cvtepi32_ps(worths);
    if (f->zeros >= 0) x = _mm256_sub_ps(x, scales->zero[half]);
    x = _mm256_mul_ps(x, scales->scale[half]);
    if (f->terms > 1) return _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    return f->minimum >= 0 ? _mm256_add_ps(x, scales->minimum[half]) : x;
}

/* The two rows of a step, 32 bf16 each, stored; where there are two terms, in `low` what is left of them. */
BLOCKED void block_store(const char *tile, int step, const block_scales *scales, ellm_bf16 *out, ellm_bf16 *low,
                         const ellm_format *f) {
    for (int half = 0; half < 2; half++) {
        __m256i worths = block_worths(block_codes(tile, step, half, f), f);
        for (int row = 0; row < 2; row++) {
            __m256 even = block_scaled(worths, row, scales, half, f), odd = block_scaled(worths, row + 2, scales, half, f);
            __m256 even_high = f->terms > 1 ? expand_cut(even) : expand_round(even);
            __m256 odd_high = f->terms > 1 ? expand_cut(odd) : expand_round(odd);
            int64_t place = ELLM_TILE_ROW * row + ELLM_TILE_N * half;
            _mm256_store_si256((__m256i *)(out + place), expand_joined(even_high, odd_high));
            if (f->terms == 1) continue;
            __m256i rest = expand_joined(_mm256_sub_ps(even, even_high), _mm256_sub_ps(odd, odd_high));
            _mm256_store_si256((__m256i *)(low + place), rest);
        }
    }
}

#endif
