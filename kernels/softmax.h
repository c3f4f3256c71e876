/* One row of a softmax whose numerators become the left operand of a product. */
#ifndef ELLM_SOFTMAX_H
#define ELLM_SOFTMAX_H
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include "vector.h"

/* 2^f for f in [0, 1), minimax of degree 3: within 7.5e-5 of it, where half an ulp of bf16 is 2e-3 to 3.9e-3. */
#define SOFTMAX_C3 0.07802452f
#define SOFTMAX_C2 0.22606716f
#define SOFTMAX_C1 0.69583354f
#define SOFTMAX_C0 0.99992522f
#define SOFTMAX_LOG2_E 1.44269504088896341f
#define SOFTMAX_LEAST -100.0f /* powers of 2 below it are 0, or what is made of them would be subnormal, which is slow */

/* x[i] *= scales[i] */
static inline void softmax_scale(float *restrict x, const float *restrict scales, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] *= scales[i];
}

#ifdef __AVX512BF16__
/* e^((x - max) scale) of 16, 1 where x is max however large that is; `least`: 0 below 2^SOFTMAX_LEAST. */
__attribute__((always_inline)) static inline __m512 softmax_16(const float *x, float scale, float max, const int least) {
    const __m512 c3 = _mm512_set1_ps(SOFTMAX_C3), c2 = _mm512_set1_ps(SOFTMAX_C2);
    const __m512 c1 = _mm512_set1_ps(SOFTMAX_C1), c0 = _mm512_set1_ps(SOFTMAX_C0);
    const __m512 unit = _mm512_set1_ps(scale * SOFTMAX_LOG2_E), top = _mm512_set1_ps(max);
    __m512 t = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x), top), unit);
    __m512 f = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF); /* t - floor(t) */
    __m512 power = _mm512_fmadd_ps(_mm512_fmadd_ps(_mm512_fmadd_ps(c3, f, c2), f, c1), f, c0);
    if (least) return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(t, _mm512_set1_ps(SOFTMAX_LEAST), _CMP_NLT_UQ), power, t);
    return _mm512_scalef_ps(power, t); /* power * 2^floor(t) */
}

/* p[i] = bf16(e^((x[i] - max) * scale)), of which an x of -inf gives 0; returns the sum of the rounded p, so that their weights
 * add up to one. n is a multiple of ELLM_TILE_K, and max is softmax_max(x, n). */
static inline float softmax_row(const float *x, int64_t n, float scale, float max, ellm_bf16 *p) {
    const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += 32) {
        __m512bh both = _mm512_cvtne2ps_pbh(softmax_16(x + i + 16, scale, max, 0), softmax_16(x + i, scale, max, 0));
        _mm512_storeu_si512(p + i, (__m512i)both);
        sum = _mm512_dpbf16_ps(sum, both, ones);
    }
    return _mm512_reduce_add_ps(sum);
}

/* The same with p[i] = bf16(e^((x[i] - max) * scale) * weights[i]); returns the sum without weights, unrounded. */
static inline float softmax_weighted_row(const float *x, int64_t n, float scale, float max, const float *weights,
                                         ellm_bf16 *p) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += 32) {
        __m512 low = softmax_16(x + i, scale, max, 1), high = softmax_16(x + i + 16, scale, max, 1);
        sum = _mm512_add_ps(sum, _mm512_add_ps(low, high));
        low = _mm512_mul_ps(low, _mm512_loadu_ps(weights + i));
        high = _mm512_mul_ps(high, _mm512_loadu_ps(weights + i + 16));
        _mm512_storeu_si512(p + i, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
    return _mm512_reduce_add_ps(sum);
}

/* The greatest of x; NaNs are passed over. */
static inline float softmax_max(const float *x, int64_t n) {
    const __m512 least = _mm512_set1_ps(-INFINITY);
    __m512 top[4] = {least, least, least, least};
    int64_t first = 0;
    for (; first + 64 <= n; first += 64) /* an operand that is NaN gives the second one */
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) top[i] = _mm512_max_ps(_mm512_loadu_ps(x + first + 16 * i), top[i]);
    if (first < n)
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) top[i] = _mm512_max_ps(_mm512_loadu_ps(x + first + 16 * i), top[i]);
    return _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(top[0], top[1]), _mm512_max_ps(top[2], top[3])));
}
#else
static inline float softmax_power(float t) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer, in the low bits of the sum */
    float sum = (t - 0.5f) + magic, f = t - (sum - magic);
    float power = multiply_add(multiply_add(multiply_add(SOFTMAX_C3, f, SOFTMAX_C2), f, SOFTMAX_C1), f, SOFTMAX_C0);
    power = float_of(bits_of(power) + (bits_of(sum) << 23));
    return t < SOFTMAX_LEAST ? 0.0f : power;
}

static inline float softmax_row(const float *restrict x, int64_t n, float scale, float max, ellm_bf16 *restrict p) {
    float unit = scale * SOFTMAX_LOG2_E, lanes[ELLM_LANES] = {0};
    for (int64_t i = 0; i < n; i += ELLM_LANES)
        FOR_LANES {
            ellm_bf16 rounded = bf16_from_f32(softmax_power((x[i + lane] - max) * unit));
            p[i + lane] = rounded;
            lanes[lane] += f32_from_bf16(rounded);
        }
    return lanes_sum(lanes);
}

static inline float softmax_weighted_row(const float *restrict x, int64_t n, float scale, float max,
                                         const float *restrict weights, ellm_bf16 *restrict p) {
    float unit = scale * SOFTMAX_LOG2_E, lanes[ELLM_LANES] = {0};
    for (int64_t i = 0; i < n; i += ELLM_LANES)
        FOR_LANES {
            float power = softmax_power((x[i + lane] - max) * unit);
            p[i + lane] = bf16_from_f32(power * weights[i + lane]);
            lanes[lane] += power;
        }
    return lanes_sum(lanes);
}

static inline float softmax_max(const float *x, int64_t n) { return vector_max(x, n); }
#endif

#endif
