/* Products of activations in whole numbers (activations.h) with codes of weights: no weight is expanded to a float.
 *
 * For each unit of k, in ascending order, a tile or of nested formats a block,
 *     C = C + f32(D) (S s)                where D = sum of a . w, of nested formats each group's times its scale
 *     C = C + m (s . sum of a)            of formats with minimums m, for each group of k, or of nested ones
 *     C = C + f32(M) (m s)                where M = sum of each group's minimum times its sum of a
 * S is the scale, of nested formats that of the block, as m is, s the activations'. D and M are whole and exact, so free
 * of order, and each product and sum of f32 is rounded: all ISAs and any number of rows give the same bits.
 */
#ifndef ELLM_INTEGER_H
#define ELLM_INTEGER_H
#include "activations.h"
#include "expand.h"

/* A part of k, of nested formats a whole unit, of one row's product, and of many rows'. */
typedef struct integer_operand {
    const char *cells; /* of the first row */
    const activation_side *sides;
    int64_t lda;       /* bytes */
    int rows, bytes;   /* bytes: of 8 bits */
} integer_operand;

/* A part of some column tiles: tiles [first, first + count) of a block of each, `stride` bytes apart. What lies
 * `ahead` bytes on is fetched. */
typedef struct integer_columns {
    const char *block;
    int64_t stride, ahead;
    int n_tiles, first, count;
} integer_columns;

/* Where a part of the product goes. */
typedef struct integer_sums {
    float *c;
    int64_t ldc;
    int accumulate;
} integer_sums;

static inline const activation_side *integer_side(const activation_side *sides, int64_t bytes) {
    return (const activation_side *)((const char *)sides + bytes);
}

#if defined(__AVX512VNNI__)
#include "integer_avx512.h"
#ifdef __AMX_INT8__
#include "integer_amx.h"
#endif
#elif defined(__AVX2__)
#include "integer_avx2.h"
#else
#include "integer_portable.h"
#endif

/* C[rows][ELLM_TILE_N * n_tiles] = A . W for at most EXPAND_COLUMNS column tiles, `stride` bytes apart. */
BLOCKED void integer_strip(const char *a, int64_t lda, int rows, int bytes, const char *weight, int64_t stride, int n_tiles,
                           int k_tiles, float *c, int64_t ldc, char *scratch, const ellm_format *f) {
    int depth = f->nested || f->block < INTEGER_DEPTH ? (int)f->block : INTEGER_DEPTH;
    int64_t each = f->header + f->block * f->tile;
    for (int k = 0; k < k_tiles; k += depth) {
        int count = k_tiles - k < depth ? k_tiles - k : depth, next = k + fetch_parts(depth * each / f->block) * depth;
        int64_t here = k / f->block * each, ahead = next / f->block * each - here;
        if (next >= k_tiles) ahead += (n_tiles - 1) * stride; /* in the next column tiles */
        integer_operand x = {a + ACTIVATION_CELL * k, activation_sides(a, k_tiles) + k, lda, rows, bytes};
        integer_columns w = {weight + here, stride, ahead, n_tiles, k % (int)f->block, count};
        integer_sums sums = {c, ldc, k > 0};
        if (rows == 1)
            integer_row(x, w, sums, f);
#ifdef __AMX_INT8__
        else if (integer_tiled(rows, bytes))
            integer_tiles(x, w, sums, scratch, f);
#endif
        else
            integer_rows(x, w, sums, scratch, f);
    }
}

/* C[rows][ELLM_TILE_N * n_tiles] = A . W, a packed weight of a format of ELLM_WHOLE. Rows of A are lda bytes apart.
 * `scratch` is ELLM_EXPAND bytes. */
static inline void integer_matmul(const char *a, int64_t lda, int rows, int64_t activations, const char *weight,
                                  int64_t format, int n_tiles, int k_tiles, float *c, int64_t ldc, char *scratch) {
    int64_t stride = column_bytes(format, k_tiles);
    int strip = rows == 1 ? INTEGER_ROW_COLUMNS : EXPAND_COLUMNS;
#ifdef __AMX_INT8__
    if (integer_tiled(rows, activations == ELLM_INT8)) strip = INTEGER_COLUMNS;
#endif
    for (int n = 0; n < n_tiles; n += strip) {
        int columns = n_tiles - n < strip ? n_tiles - n : strip;
        switch (format) {
#define STRIP(NAME, name)                                                                                            \
    case ELLM_##NAME:                                                                                                \
        integer_strip(a, lda, rows, activations == ELLM_INT8, weight + n * stride, stride, columns, k_tiles,         \
                      c + ELLM_TILE_N * n, ldc, scratch, &ELLM_FORMATS[ELLM_##NAME]);                                \
        break;
            ELLM_WHOLE(STRIP)
#undef STRIP
        }
    }
}

#endif
