/* Numbers to codes of a format that has a scale for each group, by the scale that fits best; quantize.py says how.
 *
 * As many groups side by side as a vector has lanes, each in its own: every sum goes through its group in order, so all
 * ISAs give the same bits.
 */
#ifndef ELLM_ENCODE_H
#define ELLM_ENCODE_H
#include <stdint.h>
#include <string.h>

#pragma GCC diagnostic ignored "-Wpsabi" /* all of it is inlined, so how vectors are passed does not matter */

#if defined(__AVX512F__)
#include <immintrin.h>
#define ENCODE_LANES 16
#elif defined(__AVX2__)
#define ENCODE_LANES 8
#else
#define ENCODE_LANES 4
#endif
#define ENCODE_GROUP 32
#define ENCODE_LEVELS 16

/* What the codes of a format are worth before the scale: a table, or they count up. */
typedef struct ellm_levels {
    int32_t count;                /* in the table; 0: codes count up from `first` to `last` */
    float first, last;
    float level[ENCODE_LEVELS];   /* ascending */
    float between[ENCODE_LEVELS]; /* half-way to the next */
    int64_t tries;
    const float *tried;           /* what the number of largest magnitude is worth under the scales that are tried */
} ellm_levels;

typedef float encode_floats __attribute__((vector_size(4 * ENCODE_LANES)));
typedef int32_t encode_ints __attribute__((vector_size(4 * ENCODE_LANES)));

static inline encode_floats encode_choose(encode_ints mask, encode_floats yes, encode_floats no) {
    return (encode_floats)((mask & (encode_ints)yes) | (~mask & (encode_ints)no));
}

static inline encode_floats encode_magnitude(encode_floats x) { return (encode_floats)((encode_ints)x & 0x7fffffff); }

/* f32 below 65520 rounded to what f16 has: to nearest, ties to even. */
static inline encode_floats encode_f16(encode_floats x) {
    encode_ints sign = (encode_ints)x & (int32_t)0x80000000;
    encode_floats size = encode_magnitude(x), subnormal = (size + 0.5f) - 0.5f;
    encode_ints bits = (encode_ints)size;
    encode_floats normal = (encode_floats)((bits + 0xfff + (bits >> 13 & 1)) & ~0x1fff);
    return (encode_floats)((encode_ints)encode_choose(size < 0x1p-14f, subnormal, normal) | sign);
}

/* 1 / x, 0 for 0. */
static inline encode_floats encode_inverse(encode_floats x) {
    encode_floats zero = {0};
    return encode_choose(x != zero, 1 / encode_choose(x != zero, x, zero + 1), zero);
}

/* The codes of the levels in the table that are nearest to each x, the lower of two, and these levels. */
static inline encode_ints encode_search(const ellm_levels *levels, encode_floats x, encode_floats *level) {
#if ENCODE_LANES == ENCODE_LEVELS
    __m512 between = _mm512_loadu_ps(levels->between);
    __m512i code = _mm512_setzero_si512();
    for (int step = ENCODE_LEVELS / 2; step; step /= 2) {
        __m512 limit = _mm512_permutexvar_ps(_mm512_add_epi32(code, _mm512_set1_epi32(step - 1)), between);
        __mmask16 above = _mm512_cmp_ps_mask((__m512)x, limit, _CMP_GT_OQ);
        code = _mm512_mask_add_epi32(code, above, code, _mm512_set1_epi32(step));
    }
    *level = (encode_floats)_mm512_permutexvar_ps(code, _mm512_loadu_ps(levels->level));
    return (encode_ints)code;
#else
    encode_floats zero = {0}, found = zero + levels->level[0];
    encode_ints code = {0};
    for (int i = 0; i < ENCODE_LEVELS - 1; i++) {
        encode_ints above = x > levels->between[i];
        code -= above;
        found = encode_choose(above, zero + levels->level[i + 1], found);
    }
    *level = found;
    return code;
#endif
}

/* The level nearest to each x; of those that count up, of two the even one. */
static inline encode_floats encode_nearest(const ellm_levels *levels, encode_floats x) {
    encode_floats zero = {0}, level;
    if (levels->count) {
        encode_search(levels, x, &level);
        return level;
    }
    x = encode_choose(x < levels->first, zero + levels->first, x);
    x = encode_choose(x > levels->last, zero + levels->last, x);
    return (x + 0x1.8p23f) - 0x1.8p23f;
}

/* The code of that level. */
static inline encode_ints encode_code(const ellm_levels *levels, encode_floats x) {
    encode_floats level;
    if (levels->count) return encode_search(levels, x, &level);
    return __builtin_convertvector(encode_nearest(levels, x) - levels->first, encode_ints);
}

/* The scales that leave the least squared error: of those that are tried, and of the one that least squares give for the
 * codes under the best of these. */
static inline encode_floats encode_scale(const ellm_levels *levels, const encode_floats *x) {
    encode_floats zero = {0}, extreme = zero, best = zero + __builtin_inff(), scale = zero, fitted = zero;
    for (int k = 0; k < ENCODE_GROUP; k++)
        extreme = encode_choose(encode_magnitude(x[k]) > encode_magnitude(extreme), x[k], extreme);
    for (int64_t i = 0; i <= levels->tries; i++) {
        encode_floats tried = encode_f16(i < levels->tries ? extreme / levels->tried[i] : fitted);
        encode_floats inverse = encode_inverse(tried), error = zero, across = zero, square = zero;
        for (int k = 0; k < ENCODE_GROUP; k++) {
            encode_floats level = encode_nearest(levels, x[k] * inverse), off = x[k] - tried * level;
            error += off * off;
            across += x[k] * level;
            square += level * level;
        }
        encode_ints better = error < best;
        best = encode_choose(better, error, best);
        scale = encode_choose(better, tried, scale);
        fitted = encode_choose(better, across * encode_inverse(square), fitted);
    }
    return scale + zero; /* of zeros, 0 and not -0, whatever their signs */
}

/* Groups [count][ENCODE_GROUP] to codes, likewise, and scales [count], which f16 has. */
static inline void encode(const ellm_levels *levels, const float *x, int64_t count, uint8_t *codes, float *scales) {
    float turned[ENCODE_GROUP][ENCODE_LANES];
    encode_floats lanes[ENCODE_GROUP];
    for (int64_t first = 0; first < count; first += ENCODE_LANES) {
        int64_t some = count - first < ENCODE_LANES ? count - first : ENCODE_LANES;
        memset(turned, 0, sizeof turned);
        for (int64_t lane = 0; lane < some; lane++)
            for (int k = 0; k < ENCODE_GROUP; k++) turned[k][lane] = x[(first + lane) * ENCODE_GROUP + k];
        memcpy(lanes, turned, sizeof lanes);
        encode_floats scale = encode_scale(levels, lanes), inverse = encode_inverse(scale);
        for (int k = 0; k < ENCODE_GROUP; k++) {
            encode_ints code = encode_code(levels, lanes[k] * inverse);
            for (int64_t lane = 0; lane < some; lane++) codes[(first + lane) * ENCODE_GROUP + k] = (uint8_t)code[lane];
        }
        memcpy(scales + first, &scale, (size_t)some * sizeof *scales);
    }
}

#endif
