/* expand_blocks.h by AVX2, bit for bit. Codes are taken apart as bytes, 16 even or 16 odd k of the columns. */
#ifndef ELLM_EXPAND_BLOCKS_AVX2_H
#define ELLM_EXPAND_BLOCKS_AVX2_H

/* The numbers of a group of k for each column, by halves of the columns. */
typedef struct block_scales {
    __m256 scale[2], minimum[2];
} block_scales;

BLOCKED __m256 block_halves(const char *at) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at)); }

BLOCKED __m256 block_numbers(const char *block, int64_t part, int64_t super, int64_t group, int half, const ellm_format *f) {
    int64_t at = ELLM_TILE_N * group + ELLM_TILE_N / 2 * half;
    if (!f->nested) return block_halves(block + part + 2 * at);
    __m128i bytes = _mm_loadl_epi64((const __m128i *)(block + part + at));
    return _mm256_mul_ps(block_halves(block + super + ELLM_TILE_N * half), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
}

BLOCKED block_scales block_scales_load(const char *block, int64_t group, const ellm_format *f) {
    block_scales scales;
    for (int half = 0; half < 2; half++) {
        scales.scale[half] = block_numbers(block, f->scale, f->super_scale, group, half, f);
        if (f->minimum >= 0) scales.minimum[half] = block_numbers(block, f->minimum, f->super_minimum, group, half, f);
    }
    return scales;
}

/* The codes of k pair `row`, even or odd ones, a byte for each column. */
BLOCKED __m128i block_codes(const char *tile, int row, int odd, const ellm_format *f) {
    __m128i codes = _mm_setzero_si128();
    int low = 0;
#pragma GCC unroll 3
    for (int width = 4; width; width /= 2) {
        if (!(f->bits & width)) continue;
        int byte = row * width / 4, shift = 2 * row * width % 8 + odd * width; /* the same byte for even and odd */
        __m128i part = _mm_loadu_si128((const __m128i *)(tile + byte * ELLM_TILE_N));
        part = _mm_and_si128(_mm_srli_epi16(part, shift), _mm_set1_epi8((char)((1 << width) - 1)));
        codes = _mm_or_si128(codes, _mm_slli_epi16(part, low));
        low += width;
        tile += ELLM_TILE * width / 8;
    }
    return codes;
}

/* What 16 codes are worth, whole numbers. */
BLOCKED __m128i block_worths(__m128i codes, const ellm_format *f) {
    const float *w = f->worth;
    if (f->bits != 4) return _mm_add_epi8(codes, _mm_set1_epi8((char)w[0]));
    return _mm_shuffle_epi8(_mm_setr_epi8((char)w[0], (char)w[1], (char)w[2], (char)w[3], (char)w[4], (char)w[5], (char)w[6],
                                          (char)w[7], (char)w[8], (char)w[9], (char)w[10], (char)w[11], (char)w[12],
                                          (char)w[13], (char)w[14], (char)w[15]), codes);
}

/* Whole numbers of the columns of one half, scaled, as bf16 in the upper half of each 32 bits. */
BLOCKED __m256i block_scaled(__m256i worth, const block_scales *scales, int half, const ellm_format *f) {
    __m256 x = _mm256_mul_ps(_mm256_cvtepi32_ps(worth), scales->scale[half]);
    return expand_round(f->minimum >= 0 ? _mm256_add_ps(x, scales->minimum[half]) : x);
}

/* Row `row` of a tile, 32 bf16, stored. */
BLOCKED void block_store(const char *tile, int row, const block_scales *scales, ellm_bf16 *out, const ellm_format *f) {
    __m128i even = _mm_setzero_si128(), odd = even;
    if (f->bits != 8) {
        even = block_worths(block_codes(tile, row, 0, f), f);
        odd = block_worths(block_codes(tile, row, 1, f), f);
    }
    for (int half = 0; half < 2; half++) {
        __m256i evens, odds;
        if (f->bits == 8) { /* codes less 128 are signed bytes with the sign bit turned */
            __m128i pairs = _mm_loadu_si128((const __m128i *)(tile + 2 * ELLM_TILE_N * row + ELLM_TILE_N * half));
            __m256i words = _mm256_cvtepi8_epi16(_mm_xor_si128(pairs, _mm_set1_epi8((char)0x80)));
            evens = _mm256_srai_epi32(_mm256_slli_epi32(words, 16), 16);
            odds = _mm256_srai_epi32(words, 16);
        } else {
            evens = _mm256_cvtepi8_epi32(half ? _mm_srli_si128(even, 8) : even);
            odds = _mm256_cvtepi8_epi32(half ? _mm_srli_si128(odd, 8) : odd);
        }
        evens = _mm256_srli_epi32(block_scaled(evens, scales, half, f), 16);
        odds = block_scaled(odds, scales, half, f);
        _mm256_store_si256((__m256i *)(out + ELLM_TILE_N * half), _mm256_blend_epi16(evens, odds, 0xaa));
    }
}

#endif
