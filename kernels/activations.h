/* Rows of activations as whole numbers, for products with codes of weights that are whole numbers too.
 *
 * Each unit of k, a tile or of nested formats a block, has one scale s and is a = x / s rounded to nearest even. Of 16
 * bits s is the least power of two that keeps |a| within ACTIVATION_MOST_16, then doubled until the sum of |a| is within
 * `most_sum` of the format, so that products with its weights fit in 32 bits; of 8 bits it is max |x| / 127. A row is a
 * cell for each tile of k, their number made even, then a side for each, in which a unit's tiles have the same scale.
 * Of elements none of which reaches ACTIVATION_LEAST all are 0; where one is no finite number, s is NaN, and so is all
 * that is multiplied with it.
 */
#ifndef ELLM_ACTIVATIONS_H
#define ELLM_ACTIVATIONS_H
#include "vector.h"

#define ACTIVATION_CELL 64         /* bytes */
#define ACTIVATION_LEAST 0x1p-100f /* so that s is no subnormal */
#define ACTIVATION_MOST_8 127
#define ACTIVATION_MOST_16 32639 /* 256 times a signed byte and another one */
#define ACTIVATION_TILES 8       /* most of a unit */
#define ACTIVATION_SPLIT 128     /* of sums of nested formats with minimums: halves of 16 bits, the upper ones so many */

typedef struct activation_side {
    float scale;
    int32_t power;   /* added to the bits of an ordinary f32 makes it s times as much; ACTIVATION_MULTIPLY: does not */
    int32_t sums[2]; /* of a over each group of k that has a scale: times -zero; of formats with minimums times s, f32;
                      * of nested ones, two halves */
} activation_side;

#define ACTIVATION_MULTIPLY INT32_MIN

/* How a cell holds its numbers. */
enum { ACTIVATION_WHOLE, ACTIVATION_DIGITS, ACTIVATION_BYTES, ACTIVATION_PLANES, ACTIVATION_FORMS };

/* Bytes of a row: an odd number of cache lines, so that rows spread over the sets of L1. */
static inline int64_t activation_stride(int64_t k_tiles) {
    int64_t bytes = (k_tiles + (k_tiles & 1)) * (ACTIVATION_CELL + (int64_t)sizeof(activation_side));
    return 64 * ((bytes + 63) / 64 | 1);
}

static inline activation_side *activation_sides(const char *row, int64_t k_tiles) {
    return (activation_side *)(row + ACTIVATION_CELL * (k_tiles + (k_tiles & 1)));
}

/* Tiles of k that have one scale. */
static inline int activation_unit(const ellm_format *f) { return f->nested ? (int)f->block : 1; }

/* What is added to what codes are worth, so that none is negative. */
static inline int32_t activation_zero(const ellm_format *f) { return f->table ? 128 : (int32_t)f->zero; }

#ifdef __AVX512VNNI__
#include <immintrin.h>
#ifdef __AMX_INT8__
#define ACTIVATION_FEW 16 /* most rows that are not multiplied by tiles: see routes.py */
#else
#define ACTIVATION_FEW INT32_MAX
#endif

/* One row is multiplied by bytes as codes hold them; some by pairs, as all digits of a block of rows are no less work. */
static inline int activation_form(int64_t activations, int64_t rows, const ellm_format *f) {
    if (activations == ELLM_INT8) return ACTIVATION_BYTES;
    if (rows > ACTIVATION_FEW && f->nested) return ACTIVATION_PLANES;
    return rows == 1 || rows > ACTIVATION_FEW ? ACTIVATION_DIGITS : ACTIVATION_WHOLE;
}

/* Whole: 16 bits each. Digits: of each number the low byte, signed, and then what is left of it, a signed byte too,
 * each four as words of codes hold them. Planes: the same, of two cells the low ones and then the others. Bytes: the
 * low ones alone. */
static inline void activation_store(const int16_t *a, int form, int tile, char *cells) {
    char *cell = cells + ACTIVATION_CELL * tile;
    const __m256i order = _mm256_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15, 0, 2, 1, 3, 4, 6, 5, 7,
                                           8, 10, 9, 11, 12, 14, 13, 15);
    __m512i whole = _mm512_loadu_si512(a);
    if (form == ACTIVATION_WHOLE) {
        _mm512_storeu_si512(cell, whole);
        return;
    }
    __m512i high = _mm512_srai_epi16(_mm512_add_epi16(whole, _mm512_set1_epi16(128)), 8);
    char *first = form == ACTIVATION_PLANES ? cell - ACTIVATION_CELL / 2 * (tile & 1) : cell;
    char *second = first + (form == ACTIVATION_PLANES ? ACTIVATION_CELL : ACTIVATION_CELL / 2);
    _mm256_storeu_si256((__m256i *)first, _mm256_shuffle_epi8(_mm512_cvtepi16_epi8(whole), order));
    _mm256_storeu_si256((__m256i *)second, _mm256_shuffle_epi8(_mm512_cvtepi16_epi8(high), order));
}
#else
static inline int activation_form(int64_t activations, int64_t rows, const ellm_format *f) { return ACTIVATION_WHOLE; }

static inline void activation_store(const int16_t *a, int form, int tile, char *cells) {
    memcpy(cells + ACTIVATION_CELL * tile, a, ELLM_TILE_K * sizeof *a);
}
#endif

/* The greatest |x|, as bits, which order NaN above infinity and that above all others. */
static inline uint32_t activation_greatest(const float *x, int n) {
    uint32_t most = 0;
    for (int i = 0; i < n; i++) {
        uint32_t bits = bits_of(x[i]) & 0x7fffffff;
        most = bits > most ? bits : most;
    }
    return most;
}

/* The scale for elements whose greatest is `most`, an ordinary number, and what they are multiplied by. */
static inline float activation_scale(float most, int64_t activations, float *inverse) {
    if (activations == ELLM_INT8) {
        *inverse = ACTIVATION_MOST_8 / most;
        return most / ACTIVATION_MOST_8;
    }
    uint32_t exponent = bits_of(most) >> 23; /* 2^14 <= most / 2^(exponent - 127 - 14) < 2^15 */
    float least = float_of((exponent - 14) << 23);
    if (most > least * ACTIVATION_MOST_16) least *= 2;
    *inverse = 1 / least;
    return least;
}

/* a = x * inverse, rounded. Returns the sum of |a|. */
static inline int64_t activation_round(const float *x, int n, float inverse, int16_t *a) {
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    int32_t sum = 0;
    for (int i = 0; i < n; i++) {
        int32_t whole = (int32_t)(bits_of(x[i] * inverse + shift) - bits_of(shift));
        sum += whole < 0 ? -whole : whole;
        a[i] = (int16_t)whole;
    }
    return sum;
}

/* What a side keeps of a group's sum. */
static inline int32_t activation_sum(int32_t sum, float scale, const ellm_format *f) {
    if (f->minimum < 0) return -activation_zero(f) * sum;
    if (!f->nested) return (int32_t)bits_of((float)sum * scale);
    int32_t low = sum & (ACTIVATION_SPLIT - 1);
    return (sum - low) / ACTIVATION_SPLIT * 65536 + low;
}

/* A unit of a row, or what there is of the last one. */
static inline void activation_store_unit(const float *x, int tiles, int64_t activations, int form, const ellm_format *f,
                                         char *cells, activation_side *sides) {
    int n = ELLM_TILE_K * tiles;
    uint32_t bits = activation_greatest(x, n);
    float inverse = 0, scale = bits < 0x7f800000 ? 0 : NAN;
    int16_t a[ACTIVATION_TILES * ELLM_TILE_K] = {0};
    if (bits < 0x7f800000 && float_of(bits) >= ACTIVATION_LEAST) {
        scale = activation_scale(float_of(bits), activations, &inverse);
        while (activation_round(x, n, inverse, a) > f->most_sum) scale *= 2, inverse /= 2;
    }
    for (int tile = 0; tile < tiles; tile++) {
        activation_side *side = sides + tile;
        activation_store(a + ELLM_TILE_K * tile, form, tile, cells);
        side->scale = scale;
        side->power = (int32_t)bits_of(scale) - (127 << 23);
        if (activations == ELLM_INT8 || !(scale >= 0x1p-60f && scale <= 0x1p60f)) side->power = ACTIVATION_MULTIPLY;
        for (int group = 0; group < ELLM_TILE_K / f->group; group++) {
            int32_t sum = 0;
            for (int i = 0; i < f->group; i++) sum += a[ELLM_TILE_K * tile + group * f->group + i];
            side->sums[group] = activation_sum(sum, scale, f);
        }
    }
}

#endif
