/* The expansions of expand.h by AVX2, bit for bit. */
#ifndef ELLM_EXPAND_AVX2_H
#define ELLM_EXPAND_AVX2_H
#include <immintrin.h>

/* f32 in the upper half of each 32 bits, and 16 bits that do not count, rounded to nearest even; no NaN is among them. */
static inline __m256i expand_round(__m256 x) {
    __m256i bits = (__m256i)x, odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
}

/* 16 E4M3 codes, each in the upper half of 16 bits, scaled; the two of a pair of k have the same scale. */
static inline __m256i expand_pairs(__m256i codes, __m256 scale) {
    const __m256 bias = _mm256_set1_ps(0x1p120f);
    __m256i values = _mm256_and_si256(_mm256_srai_epi16(codes, 4), _mm256_set1_epi16((short)0x87f0));
    __m256 even = (__m256)_mm256_slli_epi32(values, 16);
    __m256 odd = (__m256)_mm256_and_si256(values, _mm256_set1_epi32((int)0xffff0000));
    __m256i low = expand_round(_mm256_mul_ps(_mm256_mul_ps(even, bias), scale));
    __m256i high = expand_round(_mm256_mul_ps(_mm256_mul_ps(odd, bias), scale));
    return _mm256_blend_epi16(_mm256_srli_epi32(low, 16), high, 0xaa);
}

/* A block that holds a NaN, which nothing but a broken checkpoint has, is left to plain C. */
#define EXPAND_FP8 expand_fp8
static inline void expand_fp8(const char *block, int first, int count, ellm_bf16 *out, ellm_bf16 *low, int64_t ahead) {
    const __m256i magnitude = _mm256_set1_epi8(0x7f);
    __m256 scale[2] = {_mm256_loadu_ps((const float *)block), _mm256_loadu_ps((const float *)block + 8)};
    int nan = _mm256_movemask_ps(_mm256_cmp_ps(scale[0], scale[1], _CMP_UNORD_Q));
    for (int row = 0; row < ELLM_TILE_PAIRS * count; row++) {
        const char *at = block + ELLM_FP8_HEADER + ELLM_TILE * first + ELLM_TILE_ROW * row;
        if (row % 2 == 0) _mm_prefetch(at + ahead, _MM_HINT_T0);
        __m256i codes = _mm256_loadu_si256((const __m256i *)at);
        nan |= _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_and_si256(codes, magnitude), magnitude));
        codes = _mm256_permute4x64_epi64(codes, 0xd8); /* unpacking within each half then keeps the order */
        __m256i low = _mm256_unpacklo_epi8(_mm256_setzero_si256(), codes);
        __m256i high = _mm256_unpackhi_epi8(_mm256_setzero_si256(), codes);
        _mm256_store_si256((__m256i *)(out + ELLM_TILE_ROW * row), expand_pairs(low, scale[0]));
        _mm256_store_si256((__m256i *)(out + ELLM_TILE_ROW * row + ELLM_TILE_ROW / 2), expand_pairs(high, scale[1]));
    }
    if (nan) expand_fp8_plain(block, first, count, out, low, ahead);
}

/* High and low byte of E2M1 codes in bf16 times 2^126, with +0 for -0, as in expand_avx512.h. */
#define E2M1_HIGH 0, 0x7e, 0x7e, 0x7e, 0x7f, 0x7f, 0x7f, 0x7f, 0, (char)0xfe, (char)0xfe, (char)0xfe, (char)0xff, \
    (char)0xff, (char)0xff, (char)0xff
#define E2M1_LOW 0, 0, (char)0x80, (char)0xc0, 0, 0x40, (char)0x80, (char)0xc0
#define EXPAND_MXFP4 expand_mxfp4
static inline void expand_mxfp4(const char *block, int first, int count, ellm_bf16 *out, ellm_bf16 *none, int64_t ahead) {
    const __m256i high = _mm256_setr_epi8(E2M1_HIGH, E2M1_HIGH), low = _mm256_setr_epi8(E2M1_LOW, E2M1_LOW, E2M1_LOW, E2M1_LOW);
    const uint8_t *scales = (const uint8_t *)block;
    for (int i = ELLM_TILE_N * first; i < ELLM_TILE_N * (first + count); i++)
        if (scales[i] < 2 || scales[i] > 252) {
            expand_mxfp4_plain(block, first, count, out, none, ahead);
            return;
        }
    for (int row = ELLM_TILE_PAIRS * first; row < ELLM_TILE_PAIRS * (first + count); row += 4) {
        const char *line = block + ELLM_MXFP4_HEADER + ELLM_TILE_N * row;
        _mm_prefetch(line + ahead, _MM_HINT_T0);
        for (int half = 0; half < 2; half++) {
            __m128i bytes = _mm_loadl_epi64((const __m128i *)(scales + row / ELLM_TILE_PAIRS * ELLM_TILE_N + 8 * half));
            __m256i scale = _mm256_slli_epi32(_mm256_sub_epi32(_mm256_set1_epi32(127 + 126), _mm256_cvtepu8_epi32(bytes)), 7);
            __m256i codes = _mm256_loadu_si256((const __m256i *)line + half);
            scale = _mm256_or_si256(scale, _mm256_slli_epi32(scale, 16));
            for (int i = 0; i < 4; i++) { /* two neighbours are in the low or the high bytes of a word's halves */
                __m256i pair = _mm256_srli_epi16(codes, 8 * (i % 2) + 4 * (i / 2));
                pair = _mm256_and_si256(pair, _mm256_set1_epi16(15));
                pair = _mm256_or_si256(_mm256_shuffle_epi8(low, pair), _mm256_slli_epi16(_mm256_shuffle_epi8(high, pair), 8));
                ellm_bf16 *target = out - ELLM_TILE * first + ELLM_TILE_ROW * (row + i) + ELLM_TILE_ROW / 2 * half;
                _mm256_store_si256((__m256i *)target, _mm256_subs_epu16(pair, scale));
            }
        }
    }
}

#endif
