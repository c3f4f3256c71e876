/* Loops over one row: conversions, norms, exp, silu, rotation.
 *
 * Plain C that the compiler vectorises under each ISA's flags, but for the rounding to bf16. Sums keep ELLM_LANES partial sums, one per lane
 * (element i goes to lane i % ELLM_LANES), and add the lanes in a tree: the order of operations is fixed, -ffast-math unneeded.
 */
#ifndef ELLM_VECTOR_H
#define ELLM_VECTOR_H
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include "task.h"

#define ELLM_LANES 16
/* Keeps the loop over lanes a loop: gcc vectorises it whole, but not what is left of it after unrolling. */
#define FOR_LANES _Pragma("GCC unroll 1") for (int lane = 0; lane < ELLM_LANES; lane++)

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Rounds to nearest, ties to even. A NaN gets its quiet bit, or truncation could make it an infinity. */
static inline ellm_bf16 bf16_from_f32(float x) {
    uint32_t bits = bits_of(x);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    uint32_t quiet = (bits >> 16) | 0x40u;
    return (ellm_bf16)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

static inline float f32_from_bf16(ellm_bf16 x) { return float_of((uint32_t)x << 16); }

#ifdef __AVX512BF16__
#define BF16_LANES 32

/* bf16_from_f32 of 32 numbers. The instruction rounds as it does, but takes subnormal numbers for zeros. */
static inline void bf16_store(__m512 low, __m512 high, ellm_bf16 *out) {
    const int subnormal = 0x20;
    if (__builtin_expect(_mm512_fpclass_ps_mask(low, subnormal) | _mm512_fpclass_ps_mask(high, subnormal), 0)) {
        float x[BF16_LANES];
        _mm512_storeu_ps(x, low);
        _mm512_storeu_ps(x + ELLM_LANES, high);
        for (int i = 0; i < BF16_LANES; i++) out[i] = bf16_from_f32(x[i]);
    } else
        _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}
#endif

static inline void vector_to_bf16(const float *restrict x, ellm_bf16 *restrict out, int64_t n) {
    int64_t i = 0;
#ifdef __AVX512BF16__
    for (; i + BF16_LANES <= n; i += BF16_LANES)
        bf16_store(_mm512_loadu_ps(x + i), _mm512_loadu_ps(x + i + ELLM_LANES), out + i);
#endif
    for (; i < n; i++) out[i] = bf16_from_f32(x[i]);
}

static inline void vector_from_bf16(const ellm_bf16 *restrict x, float *restrict out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = f32_from_bf16(x[i]);
}

static inline float multiply_add(float a, float b, float c) {
#ifdef __FMA__
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

/* e^x within 2 ulp; 0 below -87.33 (where e^x turns subnormal) and inf above 88.72; NaN stays NaN.
 * x = n ln 2 + r with |r| <= ln 2 / 2, e^x = 2^n e^r; polynomial and two-part ln 2 from Cephes expf (S. Moshier). */
static inline float exp_f32(float x) {
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer, in the low bits of the sum */
    float sum = multiply_add(x, 1.44269504088896341f, shift);
    float n = sum - shift;
    float r = multiply_add(n, 2.12194440e-4f, multiply_add(n, -0.693359375f, x));
    float y = 1.9875691500e-4f;
    y = multiply_add(y, r, 1.3981999507e-3f);
    y = multiply_add(y, r, 8.3334519073e-3f);
    y = multiply_add(y, r, 4.1665795894e-2f);
    y = multiply_add(y, r, 1.6666665459e-1f);
    y = multiply_add(y, r, 5.0000001201e-1f);
    y = multiply_add(y, r * r, r) + 1.0f;
    y = float_of(bits_of(y) + (bits_of(sum) << 23));
    y = x < -87.33f ? 0.0f : y;
    return x > 88.72f ? INFINITY : y;
}

static inline float silu_f32(float x) { return x / (1.0f + exp_f32(-x)); }

static inline float lanes_sum(const float *lanes) {
    float sums[ELLM_LANES];
    memcpy(sums, lanes, sizeof sums);
    for (int width = ELLM_LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) sums[i] += sums[i + width];
    return sums[0];
}

static inline float vector_sum(const float *x, int64_t n) {
    float lanes[ELLM_LANES] = {0};
    int64_t i = 0;
    for (; i + ELLM_LANES <= n; i += ELLM_LANES)
        FOR_LANES lanes[lane] += x[i + lane];
    for (int lane = 0; i + lane < n; lane++) lanes[lane] += x[i + lane];
    return lanes_sum(lanes);
}

static inline float vector_sum_squares(const float *x, int64_t n) {
    float lanes[ELLM_LANES] = {0};
    int64_t i = 0;
    for (; i + ELLM_LANES <= n; i += ELLM_LANES)
        FOR_LANES lanes[lane] += x[i + lane] * x[i + lane];
    for (int lane = 0; i + lane < n; lane++) lanes[lane] += x[i + lane] * x[i + lane];
    return lanes_sum(lanes);
}

/* x[i] = -inf where bit i % 32 of mask[i / 32] is 0. */
static inline void vector_allow(const uint32_t *mask, float *x, int64_t n) {
    for (int64_t word = 0; 32 * word < n; word++) {
        uint32_t bits = mask[word];
        float *at = x + 32 * word;
        if (bits == UINT32_MAX)
            continue;
        if (32 * word + 32 <= n) {
            for (int i = 0; i < 32; i++)
                at[i] = bits >> i & 1 ? at[i] : -INFINITY;
        } else {
            for (int i = 0; 32 * word + i < n; i++)
                at[i] = bits >> i & 1 ? at[i] : -INFINITY;
        }
    }
}

/* NaNs are passed over, except that nothing but NaNs gives -inf. */
static inline float vector_max(const float *x, int64_t n) {
    float lanes[ELLM_LANES];
    int64_t i = 0;
    for (int lane = 0; lane < ELLM_LANES; lane++) lanes[lane] = -INFINITY;
    for (; i + ELLM_LANES <= n; i += ELLM_LANES)
        FOR_LANES lanes[lane] = x[i + lane] > lanes[lane] ? x[i + lane] : lanes[lane];
    for (int lane = 0; i + lane < n; lane++) lanes[lane] = x[i + lane] > lanes[lane] ? x[i + lane] : lanes[lane];
    float max = lanes[0];
    for (int lane = 1; lane < ELLM_LANES; lane++) max = lanes[lane] > max ? lanes[lane] : max;
    return max;
}

/* rsqrt(mean(x^2) + eps): the factor of RMSNorm (Zhang and Sennrich, 2019, equation 4). */
static inline float vector_rms_scale(const float *x, double eps, int64_t n) {
    return 1.0f / sqrtf(vector_sum_squares(x, n) / (float)n + (float)eps);
}

/* out = x * scale * weight; out may be x. */
static inline void vector_norm(const float *x, const float *weight, float scale, float *out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = (x[i] * scale) * weight[i];
}

static inline void vector_norm_to_bf16(const float *restrict x, const float *restrict weight, float scale,
                                       ellm_bf16 *restrict out, int64_t n) {
    int64_t i = 0;
#ifdef __AVX512BF16__
    const __m512 scales = _mm512_set1_ps(scale);
    for (; i + BF16_LANES <= n; i += BF16_LANES) {
        __m512 low = _mm512_mul_ps(_mm512_loadu_ps(x + i), scales);
        __m512 high = _mm512_mul_ps(_mm512_loadu_ps(x + i + ELLM_LANES), scales);
        low = _mm512_mul_ps(low, _mm512_loadu_ps(weight + i));
        bf16_store(low, _mm512_mul_ps(high, _mm512_loadu_ps(weight + i + ELLM_LANES)), out + i);
    }
#endif
    for (; i < n; i++) out[i] = bf16_from_f32((x[i] * scale) * weight[i]);
}

/* Elements [begin, begin + n) of a row that is f32 or bf16. */
static inline void vector_store(const float *x, void *row, int64_t bf16, int64_t begin, int64_t n) {
    if (bf16)
        vector_to_bf16(x, (ellm_bf16 *)row + begin, n);
    else
        memcpy((float *)row + begin, x, (size_t)n * sizeof *x);
}

/* out may be a or b. */
static inline void vector_add(const float *a, const float *b, float *out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = a[i] + b[i];
}

/* out may be gate or up. */
static inline void vector_silu_mul(const float *gate, const float *up, float *out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = silu_f32(gate[i]) * up[i];
}

/* silu(gate) * up of `pairs` pairs of column tiles, gate before up; the products take the place of the first `pairs` tiles. */
static inline void vector_silu_mul_tiles(float *c, int64_t pairs) {
    for (int64_t pair = 0; pair < pairs; pair++) {
        float gate[ELLM_TILE_N], up[ELLM_TILE_N];
        memcpy(gate, c + 2 * ELLM_TILE_N * pair, sizeof gate);
        memcpy(up, c + ELLM_TILE_N * (2 * pair + 1), sizeof up);
        vector_silu_mul(gate, up, gate, ELLM_TILE_N);
        memcpy(c + ELLM_TILE_N * pair, gate, sizeof gate);
    }
}

/* g = min(gate, limit), u = clamp(up, -limit, limit): out = (u + 1) * g * sigmoid(alpha * g), as in gpt-oss. */
static inline void vector_clamped_glu(const float *restrict gate, const float *restrict up, float limit, float alpha,
                                      float *restrict out, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float g = gate[i] > limit ? limit : gate[i];
        float u = up[i] > limit ? limit : up[i] < -limit ? -limit : up[i];
        out[i] = (u + 1.0f) * (g / (1.0f + exp_f32(-(alpha * g))));
    }
}

/* x = e^(x * scale - max), in place. */
static inline void vector_exp(float *x, float scale, float max, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = exp_f32(x[i] * scale - max);
}

/* Rotates the pairs (i, i + rotary / 2) of x in place; angles is [rotary / 2] pairs (cos, sin).
 * x' = x cos + rotate_half(x) sin (RoPE, Su et al., 2021, in the half-split order of Hugging Face checkpoints). */
static inline void vector_rotate(float *restrict x, const float *restrict angles, int64_t rotary) {
    int64_t half = rotary / 2;
    float *restrict second = x + half;
    for (int64_t i = 0; i < half; i++) {
        float c = angles[2 * i], s = angles[2 * i + 1], a = x[i], b = second[i];
        x[i] = a * c - b * s;
        second[i] = b * c + a * s;
    }
}

/* As vector_rotate, of the pairs (2 i, 2 i + 1). The FMA is spelled out because gcc 12 makes one of these sums wherever it
 * vectorises them, though told not to (-ffp-contract=off). */
static inline void vector_rotate_interleaved(float *restrict x, const float *restrict angles, int64_t rotary) {
    for (int64_t i = 0; i < rotary; i += 2) {
        float c = angles[i], s = angles[i + 1], a = x[i], b = x[i + 1];
        x[i] = multiply_add(a, c, -(b * s));
        x[i + 1] = multiply_add(b, c, a * s);
    }
}

/* out += x * scale. */
static inline void vector_add_scaled(const float *restrict x, float scale, float *restrict out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] += x[i] * scale;
}

#endif
