/* expand_blocks.h by AVX-512, bit for bit. A step is four k of the 16 columns, a byte for each. */
#ifndef ELLM_EXPAND_BLOCKS_AVX512_H
#define ELLM_EXPAND_BLOCKS_AVX512_H

/* A code is put into the mantissa of 2^15, and so it is a float, which is 2^15 more than the code. */
#define BLOCK_FAR 0x8000

/* The numbers of a group of k, of columns twice, for the elements 0-15 and 16-31 of a row. `offset` is what a float is more
 * than its code is worth; where block_fused, times -scale. */
typedef struct block_scales {
    __m512 scale[2], offset[2], minimum[2];
} block_scales;

BLOCKED __m512i block_signed(const char *at) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)at)); }

BLOCKED __m512 block_brains(const char *at) {
    __m512i values = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)at));
    return (__m512)_mm512_slli_epi32(values, 16);
}

BLOCKED __m512 block_numbers(const char *block, int64_t part, int64_t super, int64_t group, const ellm_format *f) {
    if (f->bf16) return block_brains(block + part + 2 * ELLM_TILE_N * group);
    if (!f->nested) return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(block + part + 2 * ELLM_TILE_N * group)));
    __m512 whole = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(block + super)));
    return _mm512_mul_ps(whole, _mm512_cvtepi32_ps(block_signed(block + part + ELLM_TILE_N * group)));
}

/* Whether offset times scale is exact, 13 bits and 11 at most, or 16 and 8 where zeros meet bf16: then a fused sum rounds the
 * product of scale and worth, and only of 0 it does not know the sign, which no sum that begins with +0 shows. */
BLOCKED int block_fused(const ellm_format *f) { return !f->nested && (f->zeros < 0 || f->bf16); }

/* Numbers of columns 0-7 twice, and of columns 8-15. */
BLOCKED void block_twice(__m512 columns, __m512 twice[2]) {
    const __m512i order = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    twice[0] = _mm512_permutexvar_ps(order, columns);
    twice[1] = _mm512_permutexvar_ps(_mm512_add_epi32(order, _mm512_set1_epi32(8)), columns);
}

BLOCKED block_scales block_scales_load(const char *block, int64_t group, const ellm_format *f) {
    block_scales scales;
    __m512 scale = block_numbers(block, f->scale, f->super_scale, group, f);
    __m512 offset = _mm512_set1_ps(BLOCK_FAR + (float)(f->table ? 128 : f->zero));
    const char *zeros = block + f->zeros + ELLM_TILE_N * group;
    block_twice(scale, scales.scale);
    if (f->zeros >= 0) offset = _mm512_add_ps(offset, _mm512_cvtepi32_ps(block_signed(zeros)));
    block_twice(offset, scales.offset);
    if (block_fused(f))
        for (int half = 0; half < 2; half++)
            scales.offset[half] = _mm512_mul_ps(_mm512_sub_ps(_mm512_setzero_ps(), scales.offset[half]), scales.scale[half]);
    if (f->minimum >= 0) block_twice(block_numbers(block, f->minimum, f->super_minimum, group, f), scales.minimum);
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

/* What is put into mantissas: codes, or 128 more than they are worth by a table. */
BLOCKED __m512i block_unsigned(__m512i codes, const ellm_format *f) {
    return f->table ? _mm512_xor_si512(block_worths(codes, f), _mm512_set1_epi8((char)0x80)) : codes;
}

/* Elements 0-15 or 16-31 of row 0 or 1 of a step, scaled. */
BLOCKED __m512 block_scaled(__m512i codes, int row, int half, const block_scales *scales, const ellm_format *f) {
    const __m512i pairs = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    __m512i from = _mm512_slli_epi32(_mm512_add_epi32(pairs, _mm512_set1_epi32(row + ELLM_TILE_ROW * half)), 8);
    __m512i bits = _mm512_mask_permutexvar_epi8(_mm512_set1_epi32(0x47000000), 0x2222222222222222, from, codes);
    __m512 x = (__m512)bits;
    if (block_fused(f))
        x = _mm512_fmadd_ps(x, scales->scale[half], scales->offset[half]);
    else
        x = _mm512_mul_ps(_mm512_sub_ps(x, scales->offset[half]), scales->scale[half]);
    if (f->terms > 1) return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    return f->minimum >= 0 ? _mm512_add_ps(x, scales->minimum[half]) : x;
}

/* The two rows of a step, 32 bf16 each; where there are two terms, in `low` what is left of them. */
BLOCKED void block_rows(const char *tile, int step, const block_scales *scales, __m512i rows[2], __m512i low[2],
                        const ellm_format *f) {
    __m512i codes = block_unsigned(block_codes(tile, step, f), f);
    for (int row = 0; row < 2; row++) {
        __m512 first = block_scaled(codes, row, 0, scales, f), second = block_scaled(codes, row, 1, scales, f);
        if (f->terms > 1)
            expand_split(first, second, &rows[row], &low[row]);
        else
            rows[row] = expand_round(first, second);
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
