/* expand_blocks.h by AVX-512, bit for bit. Codes of fewer than 8 bits are taken apart as 16 even and 16 odd k of the columns. */
#ifndef ELLM_EXPAND_BLOCKS_AVX512_H
#define ELLM_EXPAND_BLOCKS_AVX512_H

/* The numbers of a group of k for each column; of codes of 8 bits, for each element 0-15 and 16-31 of a row. */
typedef struct block_scales {
    __m512 scale[2], minimum[2];
} block_scales;

BLOCKED __m512 block_numbers(const char *block, int64_t part, int64_t super, int64_t group, const ellm_format *f) {
    if (!f->nested) return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(block + part + 2 * ELLM_TILE_N * group)));
    __m512 whole = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(block + super)));
    __m128i bytes = _mm_loadu_si128((const __m128i *)(block + part + ELLM_TILE_N * group));
    return _mm512_mul_ps(whole, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)));
}

BLOCKED void block_spread(__m512 numbers, __m512 out[2], const ellm_format *f) {
    const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    out[0] = out[1] = numbers;
    if (f->bits != 8) return;
    out[0] = _mm512_permutexvar_ps(twice, numbers);
    out[1] = _mm512_permutexvar_ps(_mm512_add_epi32(twice, _mm512_set1_epi32(8)), numbers);
}

BLOCKED block_scales block_scales_load(const char *block, int64_t group, const ellm_format *f) {
    block_scales scales;
    block_spread(block_numbers(block, f->scale, f->super_scale, group, f), scales.scale, f);
    if (f->minimum >= 0) block_spread(block_numbers(block, f->minimum, f->super_minimum, group, f), scales.minimum, f);
    return scales;
}

/* Bits `low` .. of 16 codes, from a part of `width` bits a code, put to those of lower parts. Higher bits are any. */
BLOCKED __m512i block_join(__m512i codes, __m128i bytes, int shift, int low) {
    __m512i part = _mm512_cvtepu8_epi32(bytes);
    part = shift >= low ? _mm512_srli_epi32(part, shift - low) : _mm512_slli_epi32(part, low - shift);
    return low ? _mm512_ternarylogic_epi32(_mm512_set1_epi32((1 << low) - 1), codes, part, 0xca) : part;
}

/* The codes of k pair `row`, even or odd ones. */
BLOCKED __m512i block_codes(const char *tile, int row, int odd, const ellm_format *f) {
    __m512i codes = _mm512_setzero_si512();
    int low = 0;
#pragma GCC unroll 3
    for (int width = 4; width; width /= 2) {
        if (!(f->bits & width)) continue;
        int byte = row * width / 4, shift = 2 * row * width % 8 + odd * width; /* the same byte for even and odd */
        codes = block_join(codes, _mm_loadu_si128((const __m128i *)(tile + byte * ELLM_TILE_N)), shift, low);
        low += width;
        tile += ELLM_TILE * width / 8;
    }
    return codes;
}

BLOCKED __m512 block_scaled(__m512 worth, const block_scales *scales, int half, const ellm_format *f) {
    worth = _mm512_mul_ps(worth, scales->scale[half]);
    return f->minimum >= 0 ? _mm512_add_ps(worth, scales->minimum[half]) : worth;
}

/* What 16 codes are worth; bits above a code's are any. */
BLOCKED __m512 block_worths(__m512i codes, const ellm_format *f) {
    if (f->bits <= 4) return _mm512_permutexvar_ps(codes, _mm512_loadu_ps(f->worth));
    if (f->bits == 5) return _mm512_permutex2var_ps(_mm512_loadu_ps(f->worth), codes, _mm512_loadu_ps(f->worth + 16));
    codes = _mm512_and_si512(codes, _mm512_set1_epi32((1 << f->bits) - 1));
    return _mm512_cvtepi32_ps(_mm512_add_epi32(codes, _mm512_set1_epi32((int)f->worth[0])));
}

/* Row `row` of a tile, 32 bf16. */
BLOCKED __m512i block_row(const char *tile, int row, const block_scales *scales, const ellm_format *f) {
    if (f->bits == 8) { /* codes less 128 are signed bytes with the sign bit turned */
        __m256i codes = _mm256_loadu_si256((const __m256i *)(tile + 2 * ELLM_TILE_N * row));
        codes = _mm256_xor_si256(codes, _mm256_set1_epi8((char)0x80));
        __m512 first = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(codes)));
        __m512 second = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(codes, 1)));
        return expand_round(block_scaled(first, scales, 0, f), block_scaled(second, scales, 1, f));
    }
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                           5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m512 even = block_scaled(block_worths(block_codes(tile, row, 0, f), f), scales, 0, f);
    __m512 odd = block_scaled(block_worths(block_codes(tile, row, 1, f), f), scales, 0, f);
    return _mm512_permutexvar_epi16(order, expand_round(even, odd));
}

/* Row `row` of a tile, stored. */
BLOCKED void block_store(const char *tile, int row, const block_scales *scales, ellm_bf16 *out, const ellm_format *f) {
    _mm512_store_si512(out, block_row(tile, row, scales, f));
}

#endif
