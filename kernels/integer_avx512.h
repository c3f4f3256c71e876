/* integer.h by AVX-512 with VNNI: one row, or activations of 8 bits, by VPDPBUSD, as codes are bytes; many rows by
 * VPDPWSSD with weights widened to 16 bits, the scales of nested formats in them. */
#ifndef ELLM_INTEGER_AVX512_H
#define ELLM_INTEGER_AVX512_H

#define INTEGER_DEPTH 4 /* most k tiles of a part: weights of 4 column tiles and cells of a block of rows stay in L1 */
#define INTEGER_ROWS 4  /* most rows of a block: 4 x 4 sums, 4 registers of codes and one of activations */
#define INTEGER_ROW_COLUMNS 1 /* column tiles of one row: hardware fetches best what is read in order of memory */
#define INTEGER_DIGIT (ACTIVATION_CELL / 2)
#define INTEGER_LINE 64

/* Sums in registers: gcc 12 keeps a copy of each in memory if they pass through its intrinsics in a loop. */
static inline void integer_dot_pairs(__m512i *sum, __m512i weights, __m512i row) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(*sum) : "v"(weights), "v"(row));
}

static inline __m512i integer_word(const char *cell) {
    int32_t word;
    memcpy(&word, cell, sizeof word);
    return _mm512_set1_epi32(word);
}

/* The codes of a step as unsigned numbers. */
BLOCKED __m512i integer_codes(const char *tile, int step, const ellm_format *f) {
    __m512i codes = block_codes(tile, step, f);
    if (!f->table) return codes;
    __m128i worth = _mm_xor_si128(_mm_loadu_si128((const __m128i *)f->worth), _mm_set1_epi8((char)0x80));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(worth), codes);
}

/* What scales a tile's sum: the scales of its group of k or, of a nested format, of the block. */
BLOCKED __m512 integer_scales(const char *block, int tile, const ellm_format *f) {
    if (f->nested) return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(block + f->super_scale)));
    if (!f->powers) return block_numbers(block, f->scale, f->super_scale, tile, f);
    __m512i codes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(block + f->scale + ELLM_TILE_N * tile)));
    __m512i powers = _mm512_max_epi32(_mm512_slli_epi32(codes, 23), _mm512_set1_epi32(1 << 22));
    return _mm512_mul_ps((__m512)powers, _mm512_set1_ps(f->unit));
}

/* The scales of a group of k of a nested format. */
BLOCKED __m512i integer_factors(const char *block, int group, const ellm_format *f) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(block + f->scale + ELLM_TILE_N * group)));
}

BLOCKED __m512 integer_add(__m512 sum, __m512i dot, __m512 scale) {
    return _mm512_add_ps(sum, _mm512_mul_ps(_mm512_cvtepi32_ps(dot), scale));
}

BLOCKED __m512 integer_add_minimum(__m512 sum, __m512 minimum, int32_t scaled) {
    return _mm512_add_ps(sum, _mm512_mul_ps(minimum, _mm512_set1_ps(float_of((uint32_t)scaled))));
}

/* Two halves by which a nested format's minimums of a group of k multiply those of a sum of activations. */
BLOCKED __m512i integer_halves(const char *block, int group, const ellm_format *f) {
    __m512i minimum = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(block + f->minimum + ELLM_TILE_N * group)));
    return _mm512_mask_blend_epi16(0xaaaaaaaa, minimum, _mm512_slli_epi32(minimum, 16 + 7));
}

BLOCKED __m512 integer_super_minimum(const char *block, const ellm_format *f) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(block + f->super_minimum)));
}

/* D of one tile of a column tile and one row. */
BLOCKED __m512i integer_row_dot(const char *cell, const activation_side *side, const int bytes, const char *block, int tile,
                                const ellm_format *f) {
    const int groups = ELLM_TILE_K / (int)f->group, steps = (int)f->group / 4;
    const char *codes = block + f->header + tile * f->tile;
    __m512i dot = _mm512_setzero_si512();
#pragma GCC unroll 2
    for (int group = 0; group < groups; group++) {
        __m512i low = f->minimum < 0 ? _mm512_set1_epi32(side->sums[group]) : _mm512_setzero_si512();
        __m512i high = _mm512_setzero_si512();
#pragma GCC unroll 8
        for (int step = group * steps; step < (group + 1) * steps; step++) {
            __m512i x = integer_codes(codes, step, f);
            low = _mm512_dpbusd_epi32(low, x, integer_word(cell + 4 * step));
            if (!bytes) high = _mm512_dpbusd_epi32(high, x, integer_word(cell + INTEGER_DIGIT + 4 * step));
        }
        if (!bytes) low = _mm512_add_epi32(low, _mm512_slli_epi32(high, 8));
        if (f->nested) low = _mm512_mullo_epi32(low, integer_factors(block, tile * groups + group, f));
        dot = group ? _mm512_add_epi32(dot, low) : low;
    }
    return dot;
}

/* What scales D or M of a row. */
BLOCKED __m512 integer_both(__m512 scale, const activation_side *side) {
    return _mm512_mul_ps(scale, _mm512_set1_ps(side->scale));
}

/* One tile of a column tile times one row. */
BLOCKED __m512 integer_row_tile(const char *cell, const activation_side *side, const int bytes, const char *block, int tile,
                                __m512 sum, const ellm_format *f) {
    const int groups = ELLM_TILE_K / (int)f->group;
    __m512i dot = integer_row_dot(cell, side, bytes, block, tile, f);
    sum = integer_add(sum, dot, integer_both(integer_scales(block, tile, f), side));
    for (int group = 0; f->minimum >= 0 && group < groups; group++) {
        __m512 minimum = block_numbers(block, f->minimum, f->super_minimum, tile * groups + group, f);
        sum = integer_add_minimum(sum, minimum, side->sums[group]);
    }
    return sum;
}

/* A unit of a nested format times one row. */
BLOCKED __m512 integer_row_nested(const int bytes, integer_operand x, integer_columns w, __m512 sum, const ellm_format *f) {
    const int groups = ELLM_TILE_K / (int)f->group;
    __m512i dot = _mm512_setzero_si512(), least = dot;
    for (int tile = 0; tile < w.count; tile++) {
        block_prefetch(w.block, tile, w.ahead, f);
        __m512i part = integer_row_dot(x.cells + ACTIVATION_CELL * tile, x.sides + tile, bytes, w.block, tile, f);
        dot = _mm512_add_epi32(dot, part);
        for (int group = 0; f->minimum >= 0 && group < groups; group++) {
            __m512i activations = _mm512_set1_epi32(x.sides[tile].sums[group]);
            least = _mm512_dpwssd_epi32(least, integer_halves(w.block, tile * groups + group, f), activations);
        }
    }
    sum = integer_add(sum, dot, integer_both(integer_scales(w.block, 0, f), x.sides));
    return f->minimum < 0 ? sum : integer_add(sum, least, integer_both(integer_super_minimum(w.block, f), x.sides));
}

BLOCKED __m512 integer_row_plain(const int bytes, integer_operand x, integer_columns w, __m512 sum, const ellm_format *f) {
    for (int tile = 0; tile < w.count; tile++) {
        const char *cell = x.cells + ACTIVATION_CELL * tile;
        block_prefetch(w.block, w.first + tile, w.ahead, f);
        sum = integer_row_tile(cell, x.sides + tile, bytes, w.block, w.first + tile, sum, f);
    }
    return sum;
}

BLOCKED __m512 integer_row_of(const int bytes, integer_operand x, integer_columns w, __m512 sum, const ellm_format *f) {
    return f->nested ? integer_row_nested(bytes, x, w, sum, f) : integer_row_plain(bytes, x, w, sum, f);
}

/* One row and one column tile, codes and sums in registers. */
BLOCKED void integer_row(integer_operand x, integer_columns w, integer_sums sums, const ellm_format *f) {
    __m512 sum = sums.accumulate ? _mm512_loadu_ps(sums.c) : _mm512_setzero_ps();
    _mm512_storeu_ps(sums.c, x.bytes ? integer_row_of(1, x, w, sum, f) : integer_row_of(0, x, w, sum, f));
}

/* What a block of rows takes of a part of column tiles: lines of weights, of column tile n and tile k at n * columns +
 * k * tile, and numbers [..][EXPAND_COLUMNS][ELLM_TILE_N]. A unit of a nested format is several parts, between which sums
 * are carried, and the numbers are the unit's. */
typedef struct integer_part {
    const char *lines;
    int64_t columns, tile;
    int groups;       /* of a tile */
    int minimums;     /* whether there are any */
    int ordinary;     /* whether scales are powers of two up to 2^+-60, but for their mantissa */
    int first, last;  /* of a nested format: tiles of the unit before the part, and whether none is behind it */
    float *scale;     /* [tile]; nested: [1] */
    float *minimum;   /* [tile][group]; nested: [1] */
    int32_t *halves;  /* nested: [tile of the unit][group] */
    int32_t *factor;  /* [tile][group]; none: NULL */
    int32_t *carry;   /* nested: [row] */
} integer_part;

#define INTEGER_NUMBERS (EXPAND_COLUMNS * ELLM_TILE_N) /* of a tile or group */

_Static_assert(sizeof(int32_t) * INTEGER_NUMBERS * (5 * INTEGER_DEPTH + 2 * ACTIVATION_TILES + ELLM_EXPERT_ROWS) +
                       EXPAND_COLUMNS * (INTEGER_DEPTH * 2 * ELLM_TILE + INTEGER_LINE) <=
                   ELLM_EXPAND,
               "most rows of a product have room for what is carried");

/* Whether all these are ordinary. */
static inline int integer_ordinary_scales(__m512 scale) {
    __m512i exponent = _mm512_sub_epi32((__m512i)scale, _mm512_set1_epi32((127 - 60) << 23));
    exponent = _mm512_and_si512(exponent, _mm512_set1_epi32(INT32_MAX));
    return _mm512_cmpge_epu32_mask(exponent, _mm512_set1_epi32(120 << 23)) == 0;
}

/* The numbers of a column tile of a plain format. */
BLOCKED void integer_numbers(integer_part *part, integer_columns w, int n, const ellm_format *f) {
    const char *block = w.block + n * w.stride;
    for (int tile = 0; tile < w.count; tile++) {
        __m512 scale = integer_scales(block, w.first + tile, f);
        _mm512_store_ps(part->scale + tile * INTEGER_NUMBERS + n * ELLM_TILE_N, scale);
        part->ordinary &= integer_ordinary_scales(scale);
    }
    for (int group = 0; f->minimum >= 0 && group < w.count * part->groups; group++) {
        __m512 minimum = block_numbers(block, f->minimum, f->super_minimum, w.first * part->groups + group, f);
        _mm512_store_ps(part->minimum + group * INTEGER_NUMBERS + n * ELLM_TILE_N, minimum);
    }
}

/* And of a nested one. */
BLOCKED void integer_numbers_nested(integer_part *part, integer_columns w, int n, const ellm_format *f) {
    const char *block = w.block + n * w.stride;
    _mm512_store_ps(part->scale + n * ELLM_TILE_N, integer_scales(block, 0, f));
    if (f->minimum >= 0) _mm512_store_ps(part->minimum + n * ELLM_TILE_N, integer_super_minimum(block, f));
    for (int group = 0; f->minimum >= 0 && group < (w.first + w.count) * part->groups; group++)
        _mm512_store_si512(part->halves + group * INTEGER_NUMBERS + n * ELLM_TILE_N, integer_halves(block, group, f));
    for (int group = 0; part->factor && group < w.count * part->groups; group++) {
        __m512i factor = integer_factors(block, w.first * part->groups + group, f);
        _mm512_store_si512(part->factor + group * INTEGER_NUMBERS + n * ELLM_TILE_N, factor);
    }
}

BLOCKED integer_part integer_part_of(char *scratch, integer_columns w, int bytes, int last, const ellm_format *f) {
    const int groups = ELLM_TILE_K / (int)f->group;
    float *numbers = (float *)scratch;
    integer_part part = {.groups = groups, .minimums = f->minimum >= 0, .ordinary = 1, .first = w.first, .last = last};
    part.scale = numbers;
    part.minimum = part.scale + INTEGER_DEPTH * INTEGER_NUMBERS;
    part.halves = (int32_t *)(part.minimum + 2 * INTEGER_DEPTH * INTEGER_NUMBERS);
    part.factor = bytes && f->nested ? part.halves + 2 * ACTIVATION_TILES * INTEGER_NUMBERS : 0;
    part.lines = (char *)(part.halves + (2 * ACTIVATION_TILES + 2 * INTEGER_DEPTH) * INTEGER_NUMBERS);
    part.tile = bytes ? ELLM_TILE : 2 * ELLM_TILE;
    part.columns = INTEGER_DEPTH * part.tile + INTEGER_LINE; /* spread over the sets of L1 */
    part.carry = (int32_t *)(part.lines + EXPAND_COLUMNS * part.columns);
    for (int n = 0; n < w.n_tiles; n++)
        if (f->nested)
            integer_numbers_nested(&part, w, n, f);
        else
            integer_numbers(&part, w, n, f);
    return part;
}

/* Weights of 16 bits in lines of two k, with the scales of nested formats in them. */
BLOCKED void integer_widen(integer_part part, integer_columns w, const ellm_format *f) {
    const int groups = ELLM_TILE_K / (int)f->group, steps = (int)f->group / 4;
    for (int n = 0; n < w.n_tiles; n++)
        for (int tile = 0; tile < w.count; tile++) {
            const char *block = w.block + n * w.stride, *codes = block + f->header + (w.first + tile) * f->tile;
            char *out = (char *)part.lines + n * part.columns + tile * part.tile;
            block_prefetch(block, w.first + tile, w.ahead, f);
#pragma GCC unroll 2
            for (int group = 0; group < groups; group++) {
                __m512i factor = _mm512_setzero_si512();
                if (f->nested) factor = integer_factors(block, (w.first + tile) * groups + group, f);
                factor = _mm512_mask_blend_epi16(0xaaaaaaaa, factor, _mm512_slli_epi32(factor, 16));
#pragma GCC unroll 8
                for (int step = group * steps; step < (group + 1) * steps; step++) {
                    __m512i worths = block_worths(block_codes(codes, step, f), f);
                    __m512i first = _mm512_srai_epi16(_mm512_slli_epi16(worths, 8), 8), second = _mm512_srai_epi16(worths, 8);
                    if (f->nested) first = _mm512_mullo_epi16(first, factor), second = _mm512_mullo_epi16(second, factor);
                    _mm512_store_si512(out + 2 * INTEGER_LINE * step, first);
                    _mm512_store_si512(out + 2 * INTEGER_LINE * step + INTEGER_LINE, second);
                }
            }
        }
}

/* dot += a . W of a tile, for a block of R rows and T column tiles; both are constants where this is inlined. */
BLOCKED void integer_pairs_dot(const int R, const int T, const char *a, int64_t lda, const char *lines, int64_t columns,
                               __m512i dot[INTEGER_ROWS][EXPAND_COLUMNS]) {
#pragma GCC unroll 1
    for (int pair = 0; pair < ELLM_TILE_PAIRS; pair++) {
        __m512i column[EXPAND_COLUMNS];
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) column[t] = _mm512_load_si512(lines + t * columns + INTEGER_LINE * pair);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            __m512i row = integer_word(a + r * lda + 4 * pair);
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) integer_dot_pairs(&dot[r][t], column[t], row);
        }
    }
}

/* A block of a plain format. Constants are also `ordinary`, whether scales are multiplied by powers of two through their
 * bits, which leaves the multiplier to the dots, and `minimums` of a tile. */
BLOCKED void integer_pairs(const int R, const int T, const int ordinary, const int minimums, integer_operand x,
                           integer_part part, int count, integer_sums sums) {
    __m512i dot[INTEGER_ROWS][EXPAND_COLUMNS];
#pragma GCC unroll 1
    for (int tile = 0; tile < count; tile++) {
        const float *scale = part.scale + tile * INTEGER_NUMBERS;
        const float *minimum = part.minimum + tile * part.groups * INTEGER_NUMBERS;
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) dot[r][t] = _mm512_setzero_si512();
        integer_pairs_dot(R, T, x.cells + tile * ACTIVATION_CELL, x.lda, part.lines + tile * part.tile, part.columns, dot);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const activation_side *side = integer_side(x.sides + tile, r * x.lda);
            float *c = sums.c + r * sums.ldc;
            __m512 sum[EXPAND_COLUMNS];
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) {
                __m512 both = _mm512_load_ps(scale + ELLM_TILE_N * t);
                if (ordinary)
                    both = (__m512)_mm512_add_epi32((__m512i)both, _mm512_set1_epi32(side->power));
                else
                    both = integer_both(both, side);
                sum[t] = integer_add(_mm512_loadu_ps(c + ELLM_TILE_N * t), dot[r][t], both);
            }
#pragma GCC unroll 2
            for (int group = 0; group < minimums; group++)
#pragma GCC unroll 8
                for (int t = 0; t < T; t++) {
                    __m512 m = _mm512_load_ps(minimum + group * INTEGER_NUMBERS + ELLM_TILE_N * t);
                    sum[t] = integer_add_minimum(sum[t], m, side->sums[group]);
                }
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) _mm512_storeu_ps(c + ELLM_TILE_N * t, sum[t]);
        }
    }
}

/* What the minimums of a unit of `tiles` add to R rows, whose first sides are given. */
BLOCKED void integer_least(const int R, const int T, integer_part part, int tiles, const activation_side *sides, int64_t lda,
                           integer_sums sums) {
    __m512i least[INTEGER_ROWS][EXPAND_COLUMNS];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) least[r][t] = _mm512_setzero_si512();
    for (int tile = 0; tile < tiles; tile++)
        for (int group = 0; group < part.groups; group++, part.halves += INTEGER_NUMBERS) {
            __m512i column[EXPAND_COLUMNS];
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) column[t] = _mm512_load_si512(part.halves + ELLM_TILE_N * t);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                __m512i sum = _mm512_set1_epi32(integer_side(sides + tile, r * lda)->sums[group]);
#pragma GCC unroll 8
                for (int t = 0; t < T; t++) integer_dot_pairs(&least[r][t], column[t], sum);
            }
        }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) {
            float *c = sums.c + r * sums.ldc + ELLM_TILE_N * t;
            __m512 both = integer_both(_mm512_load_ps(part.minimum + ELLM_TILE_N * t), integer_side(sides, r * lda));
            _mm512_storeu_ps(c, integer_add(_mm512_loadu_ps(c), least[r][t], both));
        }
}

/* What a unit adds to R rows, or what is carried to its next part. */
BLOCKED void integer_unit(const int R, const int T, integer_operand x, integer_part part, int count, integer_sums sums,
                          __m512i dot[INTEGER_ROWS][EXPAND_COLUMNS]) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) {
            if (!part.last) {
                _mm512_store_si512(part.carry + r * INTEGER_NUMBERS + ELLM_TILE_N * t, dot[r][t]);
                continue;
            }
            float *c = sums.c + r * sums.ldc + ELLM_TILE_N * t;
            __m512 both = integer_both(_mm512_load_ps(part.scale + ELLM_TILE_N * t), integer_side(x.sides, r * x.lda));
            _mm512_storeu_ps(c, integer_add(_mm512_loadu_ps(c), dot[r][t], both));
        }
    if (part.last && part.minimums)
        integer_least(R, T, part, part.first + count, x.sides - part.first, x.lda, sums);
}

/* What is carried to a part of R rows. */
BLOCKED void integer_carried(const int R, const int T, integer_part part, __m512i dot[INTEGER_ROWS][EXPAND_COLUMNS]) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) {
            const int32_t *carry = part.carry + r * INTEGER_NUMBERS + ELLM_TILE_N * t;
            dot[r][t] = part.first ? _mm512_load_si512(carry) : _mm512_setzero_si512();
        }
}

/* A block of a nested format. */
BLOCKED void integer_pairs_nested(const int R, const int T, integer_operand x, integer_part part, int count,
                                  integer_sums sums) {
    __m512i dot[INTEGER_ROWS][EXPAND_COLUMNS];
    integer_carried(R, T, part, dot);
#pragma GCC unroll 1
    for (int tile = 0; tile < count; tile++)
        integer_pairs_dot(R, T, x.cells + tile * ACTIVATION_CELL, x.lda, part.lines + tile * part.tile, part.columns, dot);
    integer_unit(R, T, x, part, count, sums, dot);
}

/* Whether the powers of two of a block of rows are ordinary. */
static inline int integer_ordinary(integer_operand x, int count) {
    int found = 0;
    for (int r = 0; r < INTEGER_ROWS; r++)
        for (int tile = 0; tile < count; tile++)
            found |= integer_side(x.sides + tile, r * x.lda)->power == ACTIVATION_MULTIPLY;
    return !found;
}

/* c += a . W, by blocks of rows. */
BLOCKED void integer_blocks(const int nested, integer_operand x, integer_part part, int n_tiles, int count,
                            integer_sums sums) {
#define INTEGER_BLOCK(R, T, ordinary, minimums)                          \
    if (nested)                                                          \
        integer_pairs_nested(R, T, x, part, count, sums);                \
    else                                                                 \
        integer_pairs(R, T, ordinary, minimums, x, part, count, sums)
    int minimums = part.minimums ? part.groups : 0;
    for (; x.rows > 0; x.rows -= INTEGER_ROWS) {
        int left = x.rows < INTEGER_ROWS ? x.rows : INTEGER_ROWS, wide = n_tiles == EXPAND_COLUMNS;
        int ordinary = wide && !nested && left == INTEGER_ROWS && part.ordinary && integer_ordinary(x, count);
        switch (ordinary ? 10 + minimums : wide ? left : 4 + left) {
        case 1: INTEGER_BLOCK(1, 4, 0, minimums); break;
        case 2: INTEGER_BLOCK(2, 4, 0, minimums); break;
        case 3: INTEGER_BLOCK(3, 4, 0, minimums); break;
        case 4: INTEGER_BLOCK(4, 4, 0, minimums); break;
        case 5: INTEGER_BLOCK(1, 1, 0, minimums); break;
        case 6: INTEGER_BLOCK(2, 1, 0, minimums); break;
        case 7: INTEGER_BLOCK(3, 1, 0, minimums); break;
        case 8: INTEGER_BLOCK(4, 1, 0, minimums); break;
        case 10: INTEGER_BLOCK(4, 4, 1, 0); break;
        case 11: INTEGER_BLOCK(4, 4, 1, 1); break;
        default: INTEGER_BLOCK(4, 4, 1, 2); break;
        }
        x.cells += INTEGER_ROWS * x.lda;
        x.sides = integer_side(x.sides, INTEGER_ROWS * x.lda);
        sums.c += INTEGER_ROWS * sums.ldc;
        part.carry += INTEGER_ROWS * INTEGER_NUMBERS;
    }
#undef INTEGER_BLOCK
}

static __attribute__((noinline)) void integer_blocks_plain(integer_operand x, integer_part part, int n_tiles, int count,
                                                           integer_sums sums) {
    integer_blocks(0, x, part, n_tiles, count, sums);
}

static __attribute__((noinline)) void integer_blocks_nested(integer_operand x, integer_part part, int n_tiles, int count,
                                                            integer_sums sums) {
    integer_blocks(1, x, part, n_tiles, count, sums);
}

#include "integer_bytes_avx512.h"

/* Many rows of a part. */
BLOCKED void integer_rows_of(integer_operand x, integer_columns w, int last, integer_sums sums, char *scratch,
                             const ellm_format *f) {
    integer_part part = integer_part_of(scratch, w, x.bytes, last, f);
    int width = w.n_tiles == EXPAND_COLUMNS ? EXPAND_COLUMNS : 1;
    if (x.bytes)
        integer_unpack(part, w, f);
    else
        integer_widen(part, w, f);
    for (int n = 0; n < w.n_tiles; n += width) {
        if (x.bytes)
            integer_bytes_blocks(x, part, width, w.count, sums, f->nested);
        else if (f->nested)
            integer_blocks_nested(x, part, width, w.count, sums);
        else
            integer_blocks_plain(x, part, width, w.count, sums);
        part.lines += width * part.columns;
        part.scale += width * ELLM_TILE_N;
        part.minimum += width * ELLM_TILE_N;
        part.halves += width * ELLM_TILE_N;
        part.carry += width * ELLM_TILE_N;
        if (part.factor) part.factor += width * ELLM_TILE_N;
        sums.c += width * ELLM_TILE_N;
    }
}

/* Many rows. */
BLOCKED void integer_rows(integer_operand x, integer_columns w, integer_sums sums, char *scratch, const ellm_format *f) {
    if (!sums.accumulate)
        for (int r = 0; r < x.rows; r++) memset(sums.c + r * sums.ldc, 0, sizeof(float) * (size_t)(ELLM_TILE_N * w.n_tiles));
    for (int left = w.count; left > 0; left -= INTEGER_DEPTH) {
        integer_columns part = w;
        part.count = left < INTEGER_DEPTH ? left : INTEGER_DEPTH;
        integer_rows_of(x, part, left <= INTEGER_DEPTH, sums, scratch, f);
        w.first += INTEGER_DEPTH;
        x.cells += INTEGER_DEPTH * ACTIVATION_CELL;
        x.sides += INTEGER_DEPTH;
    }
}

#endif
