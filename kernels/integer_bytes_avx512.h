/* Many rows of activations of 8 bits, a part of integer_avx512.h: by VPDPBUSD with codes as bytes. */
#ifndef ELLM_INTEGER_BYTES_AVX512_H
#define ELLM_INTEGER_BYTES_AVX512_H

#define INTEGER_BYTES_ROWS 2 /* most rows of a block: 2 x 4 sums of a group and as many of a tile or unit */

static inline void integer_dot_bytes(__m512i *sum, __m512i codes, __m512i row) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(codes), "v"(row));
}

/* Codes as unsigned bytes, in lines of four k. */
BLOCKED void integer_unpack(integer_part part, integer_columns w, const ellm_format *f) {
    for (int n = 0; n < w.n_tiles; n++)
        for (int tile = 0; tile < w.count; tile++) {
            const char *block = w.block + n * w.stride, *codes = block + f->header + (w.first + tile) * f->tile;
            char *out = (char *)part.lines + n * part.columns + tile * part.tile;
            block_prefetch(block, w.first + tile, w.ahead, f);
#pragma GCC unroll 8
            for (int step = 0; step < ELLM_TILE_K / 4; step++)
                _mm512_store_si512(out + INTEGER_LINE * step, integer_codes(codes, step, f));
        }
}

/* A group of k of a block of R rows and T column tiles, activations of 8 bits. */
BLOCKED void integer_bytes_group(const int R, const int T, integer_operand x, integer_part part, int tile, int group,
                                 __m512i dot[INTEGER_ROWS][EXPAND_COLUMNS]) {
    const int steps = ELLM_TILE_K / 4 / part.groups;
    const char *lines = part.lines + tile * part.tile, *a = x.cells + tile * ACTIVATION_CELL;
    __m512i low[INTEGER_BYTES_ROWS][EXPAND_COLUMNS];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        int32_t sum = integer_side(x.sides + tile, r * x.lda)->sums[group];
        __m512i start = _mm512_set1_epi32(part.minimums ? 0 : sum);
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) low[r][t] = start;
    }
#pragma GCC unroll 1
    for (int step = group * steps; step < (group + 1) * steps; step++) {
        __m512i column[EXPAND_COLUMNS];
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) column[t] = _mm512_load_si512(lines + t * part.columns + INTEGER_LINE * step);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            __m512i row = integer_word(a + r * x.lda + 4 * step);
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) integer_dot_bytes(&low[r][t], column[t], row);
        }
    }
    const int32_t *factor = part.factor + (tile * part.groups + group) * INTEGER_NUMBERS;
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
        __m512i each = part.factor ? _mm512_load_si512(factor + ELLM_TILE_N * t) : _mm512_set1_epi32(1);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) dot[r][t] = _mm512_add_epi32(dot[r][t], _mm512_mullo_epi32(low[r][t], each));
    }
}

/* As integer_pairs and integer_pairs_nested, of activations of 8 bits. */
BLOCKED void integer_bytes(const int R, const int T, integer_operand x, integer_part part, int count, integer_sums sums,
                           int nested) {
    __m512i dot[INTEGER_ROWS][EXPAND_COLUMNS];
    if (nested) integer_carried(R, T, part, dot);
#pragma GCC unroll 1
    for (int tile = 0; tile < count; tile++) {
#pragma GCC unroll 8
        for (int r = 0; !nested && r < R; r++)
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) dot[r][t] = _mm512_setzero_si512();
#pragma GCC unroll 1
        for (int group = 0; group < part.groups; group++) integer_bytes_group(R, T, x, part, tile, group, dot);
#pragma GCC unroll 8
        for (int r = 0; !nested && r < R; r++) {
            const activation_side *side = integer_side(x.sides + tile, r * x.lda);
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) {
                float *c = sums.c + r * sums.ldc + ELLM_TILE_N * t;
                __m512 scale = _mm512_load_ps(part.scale + tile * INTEGER_NUMBERS + ELLM_TILE_N * t);
                __m512 sum = integer_add(_mm512_loadu_ps(c), dot[r][t], integer_both(scale, side));
                for (int group = 0; part.minimums && group < part.groups; group++) {
                    const float *minimum = part.minimum + (tile * part.groups + group) * INTEGER_NUMBERS + ELLM_TILE_N * t;
                    sum = integer_add_minimum(sum, _mm512_load_ps(minimum), side->sums[group]);
                }
                _mm512_storeu_ps(c, sum);
            }
        }
    }
    if (nested) integer_unit(R, T, x, part, count, sums, dot);
}

static __attribute__((noinline)) void integer_bytes_blocks(integer_operand x, integer_part part, int n_tiles, int count,
                                                           integer_sums sums, int64_t nested) {
    for (; x.rows > 0; x.rows -= INTEGER_BYTES_ROWS) {
        if (n_tiles == EXPAND_COLUMNS && x.rows > 1)
            integer_bytes(2, 4, x, part, count, sums, nested != 0);
        else if (n_tiles == EXPAND_COLUMNS)
            integer_bytes(1, 4, x, part, count, sums, nested != 0);
        else if (x.rows > 1)
            integer_bytes(2, 1, x, part, count, sums, nested != 0);
        else
            integer_bytes(1, 1, x, part, count, sums, nested != 0);
        x.cells += INTEGER_BYTES_ROWS * x.lda;
        x.sides = integer_side(x.sides, INTEGER_BYTES_ROWS * x.lda);
        sums.c += INTEGER_BYTES_ROWS * sums.ldc;
        part.carry += INTEGER_BYTES_ROWS * INTEGER_NUMBERS;
    }
}

#endif
