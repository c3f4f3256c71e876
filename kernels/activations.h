/* Rows of activations as whole numbers, for products with codes of weights that are whole numbers too.
 *
 * Each ELLM_TILE_K elements of a row have one scale s and are a = x / s rounded to nearest even: of 16 bits s is the
 * least power of two that keeps |a| within `levels` of the format, of 8 bits it is max |x| / 127. A row is a cell for
 * each tile of k, then a side for each. Of elements none of which reaches ACTIVATION_LEAST all are 0; where one is no
 * finite number, s is NaN, and so is all that is multiplied with it.
 */
#ifndef ELLM_ACTIVATIONS_H
#define ELLM_ACTIVATIONS_H
#include "vector.h"

#define ACTIVATION_CELL 64         /* bytes */
#define ACTIVATION_LEAST 0x1p-100f /* so that s is no subnormal */
#define ACTIVATION_MOST_8 127

typedef struct activation_side {
    float scale;
    int32_t power;   /* added to the bits of an ordinary f32 makes it s times as much; ACTIVATION_MULTIPLY: does not */
    int32_t sums[2]; /* of a over each group of k that has a scale: times -zero; of formats with minimums times s, f32 */
} activation_side;

#define ACTIVATION_MULTIPLY INT32_MIN

/* How a cell holds its numbers. */
enum { ACTIVATION_WHOLE, ACTIVATION_DIGITS, ACTIVATION_BYTES };

/* Bytes of a row: an odd number of cache lines, so that rows spread over the sets of L1. */
static inline int64_t activation_stride(int64_t k_tiles) {
    int64_t bytes = k_tiles * (ACTIVATION_CELL + (int64_t)sizeof(activation_side));
    return 64 * ((bytes + 63) / 64 | 1);
}

static inline activation_side *activation_sides(const char *row, int64_t k_tiles) {
    return (activation_side *)(row + ACTIVATION_CELL * k_tiles);
}

/* What is added to what codes are worth, so that none is negative. */
static inline int32_t activation_zero(const ellm_format *f) { return f->table ? 128 : (int32_t)f->zero; }

#ifdef __AVX512VNNI__
#include <immintrin.h>
/* One row is multiplied by bytes as codes hold them; many by pairs, as all digits of a block of rows are no less work. */
static inline int activation_form(int64_t activations, int64_t rows) {
    return activations == ELLM_INT8 ? ACTIVATION_BYTES : rows == 1 ? ACTIVATION_DIGITS : ACTIVATION_WHOLE;
}

/* Whole: 16 bits each. Digits: of each number the low byte, signed, and then what is left of it, a signed byte too,
 * each four as words of codes hold them. Bytes: the former alone. */
static inline void activation_store(const int16_t *a, int form, char *cell) {
    const __m256i order = _mm256_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15, 0, 2, 1, 3, 4, 6, 5, 7,
                                           8, 10, 9, 11, 12, 14, 13, 15);
    __m512i whole = _mm512_loadu_si512(a);
    if (form == ACTIVATION_WHOLE) {
        _mm512_storeu_si512(cell, whole);
        return;
    }
    __m512i high = _mm512_srai_epi16(_mm512_add_epi16(whole, _mm512_set1_epi16(128)), 8);
    _mm256_storeu_si256((__m256i *)cell, _mm256_shuffle_epi8(_mm512_cvtepi16_epi8(whole), order));
    _mm256_storeu_si256((__m256i *)cell + 1, _mm256_shuffle_epi8(_mm512_cvtepi16_epi8(high), order));
}
#else
static inline int activation_form(int64_t activations, int64_t rows) { return ACTIVATION_WHOLE; }

static inline void activation_store(const int16_t *a, int form, char *cell) { memcpy(cell, a, ELLM_TILE_K * sizeof *a); }
#endif

/* The greatest |x| of a tile, as bits, which order NaN above infinity and that above all others. */
static inline uint32_t activation_greatest(const float *x) {
    uint32_t most = 0;
    for (int i = 0; i < ELLM_TILE_K; i++) {
        uint32_t bits = bits_of(x[i]) & 0x7fffffff;
        most = bits > most ? bits : most;
    }
    return most;
}

/* The scale for elements whose greatest is `most`, an ordinary number, and what they are multiplied by. */
static inline float activation_scale(float most, int64_t activations, const ellm_format *f, float *inverse) {
    if (activations == ELLM_INT8) {
        *inverse = ACTIVATION_MOST_8 / most;
        return most / ACTIVATION_MOST_8;
    }
    uint32_t exponent = bits_of(most) >> 23; /* 2^14 <= most / 2^(exponent - 127 - 14) < 2^15 */
    float least = float_of((exponent - 14) << 23), levels = (float)f->levels;
    while (most > least * levels) least *= 2;
    *inverse = 1 / least;
    return least;
}

/* A tile of a row, ELLM_TILE_K elements. */
static inline void activation_tile(const float *x, int64_t activations, int form, const ellm_format *f, char *cell,
                                   activation_side *side) {
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    uint32_t bits = activation_greatest(x);
    int finite = bits < 0x7f800000;
    float inverse = 0, scale = finite ? 0 : NAN;
    int16_t a[ELLM_TILE_K];
    if (finite && float_of(bits) >= ACTIVATION_LEAST) scale = activation_scale(float_of(bits), activations, f, &inverse);
    for (int i = 0; i < ELLM_TILE_K; i++) a[i] = (int16_t)(bits_of((finite ? x[i] * inverse : 0) + shift) - bits_of(shift));
    activation_store(a, form, cell);
    side->scale = scale;
    side->power = (int32_t)bits_of(scale) - (127 << 23);
    if (activations == ELLM_INT8 || !(scale >= 0x1p-60f && scale <= 0x1p60f)) side->power = ACTIVATION_MULTIPLY;
    for (int group = 0; group < ELLM_TILE_K / f->group; group++) {
        int32_t sum = 0;
        for (int i = 0; i < f->group; i++) sum += a[group * f->group + i];
        side->sums[group] = f->minimum >= 0 ? (int32_t)bits_of((float)sum * scale) : -activation_zero(f) * sum;
    }
}

#endif
