/* The expansions of expand.h by AVX2, bit for bit. */
#ifndef ELLM_EXPAND_AVX2_H
#define ELLM_EXPAND_AVX2_H
#include <immintrin.h>

/* The numbers of bf16 that are nearest, to even ones at ties, to x that is 0 or has a magnitude of 2^-126 to 2^110: beside
 * 1.5 * 2^16 times the power of two that x begins with, 8 bits of x fit in a sum. -0 becomes +0, which no sum that begins with
 * +0 shows. */
static inline __m256 expand_round(__m256 x) {
    const __m256 far = _mm256_set1_ps(0x1.8p16f);
    __m256 power = _mm256_and_ps(x, (__m256)_mm256_set1_epi32(0x7f800000));
    return _mm256_fnmadd_ps(power, far, _mm256_fmadd_ps(power, far, x));
}

/* Numbers of bf16 as 16 bits each, of either vector in turn. */
static inline __m256i expand_joined(__m256 even, __m256 odd) {
    return _mm256_or_si256(_mm256_srli_epi32((__m256i)even, 16), (__m256i)odd);
}

/* What bf16 has of the bits of x. */
static inline __m256 expand_cut(__m256 x) { return _mm256_and_ps(x, (__m256)_mm256_set1_epi32((int)0xffff0000)); }

#define EXPAND_F16 expand_f16
static inline void expand_f16(const char *block, int first, int count, ellm_bf16 *high, ellm_bf16 *low, int64_t ahead) {
    const __m256i apart = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12, 13, 2,
                                           3, 6, 7, 10, 11, 14, 15);
    for (int i = 0; i < ELLM_TILE * count; i += ELLM_TILE_N) {
        const char *at = block + 2 * (ELLM_TILE * first + i);
        if (i % ELLM_TILE_ROW == 0) fetch_line(at + ahead);
        __m256i halves = _mm256_shuffle_epi8(_mm256_loadu_si256((const __m256i *)at), apart);
        halves = _mm256_permute4x64_epi64(halves, 0xd8); /* the even ones of all, and the odd ones */
        __m256 even = _mm256_cvtph_ps(_mm256_castsi256_si128(halves)), odd = _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
        __m256 even_high = expand_cut(even), odd_high = expand_cut(odd);
        _mm256_store_si256((__m256i *)(high + i), expand_joined(even_high, odd_high));
        _mm256_store_si256((__m256i *)(low + i), expand_joined(_mm256_sub_ps(even, even_high), _mm256_sub_ps(odd, odd_high)));
    }
}

/* The scales of columns 0-7 and 8-15, times 2^8. Returns whether products with codes can be rounded: 0, or no NaN and far from
 * where f32 ends. */
static inline int e4m3_scales(const char *block, __m256 scale[2]) {
    int near = 0xff;
    for (int half = 0; half < 2; half++) {
        __m256 one = _mm256_loadu_ps((const float *)block + 8 * half);
        __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), one);
        __m256 least = _mm256_cmp_ps(magnitude, _mm256_set1_ps(0x1p-100f), _CMP_GE_OQ);
        __m256 most = _mm256_cmp_ps(magnitude, _mm256_set1_ps(0x1p100f), _CMP_LE_OQ);
        __m256 zero = _mm256_cmp_ps(magnitude, _mm256_setzero_ps(), _CMP_EQ_OQ);
        near &= _mm256_movemask_ps(_mm256_or_ps(_mm256_and_ps(least, most), zero));
        scale[half] = _mm256_mul_ps(one, _mm256_set1_ps(0x1p8f));
    }
    return near == 0xff;
}

/* The greatest of E4M3 codes without their signs, byte by byte, and whether NaN is among them. */
static inline __m256i e4m3_greatest(__m256i greatest, __m256i codes) {
    return _mm256_max_epu8(greatest, _mm256_and_si256(codes, _mm256_set1_epi8(0x7f)));
}

static inline int e4m3_nan(__m256i greatest) {
    return _mm256_movemask_epi8(_mm256_cmpeq_epi8(greatest, _mm256_set1_epi8(0x7f)));
}

/* E4M3 codes, each in the upper half of 16 bits, as f16 times 2^-8: f16 has all their bits, and subnormals too. */
static inline __m256i e4m3_halves(__m256i codes) {
    return _mm256_and_si256(_mm256_srai_epi16(codes, 1), _mm256_set1_epi16((short)0xbf80));
}

/* A row of a tile from 32 codes: numbers of bf16 of its even k, for columns 0-7 and 8-15, and of its odd ones. */
static inline void e4m3_row(__m256i codes, const __m256 scale[2], __m256 even[2], __m256 odd[2]) {
    __m256i low = e4m3_halves(_mm256_slli_epi16(codes, 8)), high = e4m3_halves(codes);
    even[0] = expand_round(_mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(low)), scale[0]));
    even[1] = expand_round(_mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(low, 1)), scale[1]));
    odd[0] = expand_round(_mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(high)), scale[0]));
    odd[1] = expand_round(_mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(high, 1)), scale[1]));
}

/* What nothing but a broken checkpoint has is left to plain C. */
#define EXPAND_FP8 expand_fp8
static inline void expand_fp8(const char *block, int first, int count, ellm_bf16 *out, ellm_bf16 *low, int64_t ahead) {
    __m256 scale[2], even[2], odd[2];
    __m256i greatest = _mm256_setzero_si256();
    int near = e4m3_scales(block, scale);
    for (int row = 0; row < ELLM_TILE_PAIRS * count; row++) {
        const char *at = block + ELLM_FP8_HEADER + ELLM_TILE * first + ELLM_TILE_ROW * row;
        if (row % 2 == 0) fetch_line(at + ahead);
        __m256i codes = _mm256_loadu_si256((const __m256i *)at);
        greatest = e4m3_greatest(greatest, codes);
        e4m3_row(codes, scale, even, odd);
        for (int half = 0; half < 2; half++)
            _mm256_store_si256((__m256i *)(out + ELLM_TILE_ROW * row) + half, expand_joined(even[half], odd[half]));
    }
    if (!near || e4m3_nan(greatest)) expand_fp8_plain(block, first, count, out, low, ahead);
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
        fetch_line(line + ahead);
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
