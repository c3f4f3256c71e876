/* integer.h by VPMADDWD: weights and activations of 16 bits, in pairs of k, by halves of the columns. */
#ifndef ELLM_INTEGER_AVX2_H
#define ELLM_INTEGER_AVX2_H

#define INTEGER_DEPTH 4 /* most k tiles of a part: weights of EXPAND_COLUMNS column tiles stay in L1 */
#define INTEGER_ROW_COLUMNS EXPAND_COLUMNS /* column tiles of one row: side by side, as sums wait for sums */
#define INTEGER_ROWS 6  /* most rows of a block: 6 x 2 sums, 2 registers of weights and one of activations */
#define INTEGER_HALF (ELLM_TILE_N / 2)

/* Of 32 bits, as gcc 12 keeps a copy of each __m256i in memory that is added to in a loop. */
typedef int32_t integer_lanes __attribute__((vector_size(32)));

static inline __m256i integer_word(const char *cell) {
    int32_t word;
    memcpy(&word, cell, sizeof word);
    return _mm256_set1_epi32(word);
}

/* The low or the high bytes of each 16 bits, as 16 bits: k 0 and 1 or k 2 and 3 of a step. What codes are worth, or
 * unsigned codes that are to be worth as much more as `activation_zero` says. */
BLOCKED __m256i integer_pair(__m256i codes, int high, const int worth, const ellm_format *f) {
    if (worth) return _mm256_srai_epi16(high ? codes : _mm256_slli_epi16(codes, 8), 8);
    return high ? _mm256_srli_epi16(codes, 8) : _mm256_and_si256(codes, _mm256_set1_epi16(255));
}

/* The scales of half the columns for a tile's sum: of its group of k or, of a nested format, of the block. */
BLOCKED __m256 integer_scales(const char *block, int tile, int half, const ellm_format *f) {
    if (f->nested) return block_halves(block + f->super_scale + ELLM_TILE_N * half);
    if (!f->powers) return block_numbers(block, f->scale, f->super_scale, tile, half, f);
    const __m128i *at = (const __m128i *)(block + f->scale + ELLM_TILE_N * tile + INTEGER_HALF * half);
    __m256i powers = _mm256_slli_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64(at)), 23);
    powers = _mm256_max_epi32(powers, _mm256_set1_epi32(1 << 22));
    return _mm256_mul_ps((__m256)powers, _mm256_set1_ps(f->unit));
}

/* The scales of a group of k of a nested format. */
BLOCKED __m256i integer_factors(const char *block, int group, int half, const ellm_format *f) {
    const __m128i *at = (const __m128i *)(block + f->scale + ELLM_TILE_N * group + INTEGER_HALF * half);
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(at));
}

BLOCKED __m256 integer_add(__m256 sum, __m256i dot, __m256 scale, float side) {
    return _mm256_add_ps(sum, _mm256_mul_ps(_mm256_cvtepi32_ps(dot), _mm256_mul_ps(scale, _mm256_set1_ps(side))));
}

BLOCKED __m256 integer_add_minimum(__m256 sum, __m256 minimum, int32_t scaled) {
    return _mm256_add_ps(sum, _mm256_mul_ps(minimum, _mm256_set1_ps(float_of((uint32_t)scaled))));
}

/* Two halves that a nested format's minimums of a group of k multiply those of a sum of activations by. */
BLOCKED __m256i integer_halves(const char *block, int group, int half, const ellm_format *f) {
    const __m128i *at = (const __m128i *)(block + f->minimum + ELLM_TILE_N * group + INTEGER_HALF * half);
    __m256i minimum = _mm256_cvtepi8_epi32(_mm_loadl_epi64(at));
    return _mm256_blend_epi16(minimum, _mm256_slli_epi32(_mm256_slli_epi32(minimum, 16), 7), 0xaa);
}

/* The super-minimums of half the columns. */
BLOCKED __m256 integer_super_minimum(const char *block, int half, const ellm_format *f) {
    return block_halves(block + f->super_minimum + ELLM_TILE_N * half);
}

/* D of one tile of half a column tile and one row. */
BLOCKED __m256i integer_row_dot(const char *cell, const activation_side *side, const char *block, int tile, int half,
                                const ellm_format *f) {
    const int groups = ELLM_TILE_K / (int)f->group, steps = (int)f->group / 4;
    const char *codes = block + f->header + tile * f->tile;
    __m256i dot = _mm256_setzero_si256();
#pragma GCC unroll 2
    for (int group = 0; group < groups; group++) {
        __m256i first = _mm256_setzero_si256(), second = first;
        if (f->zero) first = _mm256_set1_epi32(side->sums[group]); /* a table gives signed numbers right away */
#pragma GCC unroll 8
        for (int step = group * steps; step < (group + 1) * steps; step++) {
            __m256i x = block_codes(codes, step, half, f);
            if (f->table) x = block_worths(x, f);
            __m256i low = _mm256_madd_epi16(integer_pair(x, 0, (int)f->table, f), integer_word(cell + 8 * step));
            __m256i high = _mm256_madd_epi16(integer_pair(x, 1, (int)f->table, f), integer_word(cell + 8 * step + 4));
            first = _mm256_add_epi32(first, low);
            second = _mm256_add_epi32(second, high);
        }
        first = _mm256_add_epi32(first, second);
        if (f->nested) first = _mm256_mullo_epi32(first, integer_factors(block, tile * groups + group, half, f));
        dot = group ? _mm256_add_epi32(dot, first) : first;
    }
    return dot;
}

/* One tile of half a column tile times one row. */
BLOCKED __m256 integer_row_half(const char *cell, const activation_side *side, const char *block, int tile, int half,
                                __m256 sum, const ellm_format *f) {
    const int groups = ELLM_TILE_K / (int)f->group;
    __m256i dot = integer_row_dot(cell, side, block, tile, half, f);
    sum = integer_add(sum, dot, integer_scales(block, tile, half, f), side->scale);
    for (int group = 0; f->minimum >= 0 && group < groups; group++) {
        __m256 minimum = block_numbers(block, f->minimum, f->super_minimum, tile * groups + group, half, f);
        sum = integer_add_minimum(sum, minimum, side->sums[group]);
    }
    return sum;
}

/* A unit of a nested format times one row: all column tiles side by side. */
BLOCKED void integer_row_nested(integer_operand x, integer_columns w, integer_sums sums, const ellm_format *f) {
    const int groups = ELLM_TILE_K / (int)f->group;
    __m256i dot[EXPAND_COLUMNS][2], least[EXPAND_COLUMNS][2];
    memset(dot, 0, sizeof dot);
    memset(least, 0, sizeof least);
    for (int tile = 0; tile < w.count; tile++)
        for (int n = 0; n < w.n_tiles; n++) {
            const char *block = w.block + n * w.stride, *cell = x.cells + ACTIVATION_CELL * tile;
            block_prefetch(block, tile, w.ahead, f);
            for (int half = 0; half < 2; half++) {
                __m256i part = integer_row_dot(cell, x.sides + tile, block, tile, half, f);
                dot[n][half] = _mm256_add_epi32(dot[n][half], part);
                for (int group = 0; f->minimum >= 0 && group < groups; group++) {
                    __m256i sum = _mm256_set1_epi32(x.sides[tile].sums[group]);
                    __m256i added = _mm256_madd_epi16(integer_halves(block, tile * groups + group, half, f), sum);
                    least[n][half] = _mm256_add_epi32(least[n][half], added);
                }
            }
        }
    for (int n = 0; n < w.n_tiles; n++)
        for (int half = 0; half < 2; half++) {
            const char *block = w.block + n * w.stride;
            float *c = sums.c + ELLM_TILE_N * n + INTEGER_HALF * half;
            __m256 sum = sums.accumulate ? _mm256_loadu_ps(c) : _mm256_setzero_ps();
            sum = integer_add(sum, dot[n][half], integer_scales(block, 0, half, f), x.sides->scale);
            if (f->minimum >= 0)
                sum = integer_add(sum, least[n][half], integer_super_minimum(block, half, f), x.sides->scale);
            _mm256_storeu_ps(c, sum);
        }
}

/* One row, codes and sums in registers. */
BLOCKED void integer_row(integer_operand x, integer_columns w, integer_sums sums, const ellm_format *f) {
    if (f->nested) {
        integer_row_nested(x, w, sums, f);
        return;
    }
    for (int tile = 0; tile < w.count; tile++)
        for (int n = 0; n < w.n_tiles; n++) {
            const char *block = w.block + n * w.stride, *cell = x.cells + ACTIVATION_CELL * tile;
            block_prefetch(block, w.first + tile, w.ahead, f);
            for (int half = 0; half < 2; half++) {
                float *c = sums.c + ELLM_TILE_N * n + INTEGER_HALF * half;
                __m256 sum = sums.accumulate || tile ? _mm256_loadu_ps(c) : _mm256_setzero_ps();
                _mm256_storeu_ps(c, integer_row_half(cell, x.sides + tile, block, w.first + tile, half, sum, f));
            }
        }
}

/* What a block of rows takes of a part of a column tile: lines of two k, and numbers [..][ELLM_TILE_N]. */
typedef struct integer_part {
    const char *lines;
    int groups, unit;
    int minimums;    /* whether there are any */
    float *scale;    /* [unit] */
    float *minimum;  /* [tile][group]; of nested formats [1] */
    __m256i *halves; /* of nested formats [tile][group][half] */
} integer_part;

/* What scales and is added, as integer_part has it. */
BLOCKED void integer_numbers(integer_part part, integer_columns w, const char *block, const ellm_format *f) {
    for (int half = 0; half < 2; half++) {
        float *scale = part.scale + INTEGER_HALF * half, *minimum = part.minimum + INTEGER_HALF * half;
        for (int tile = 0; tile < w.count; tile += part.unit)
            _mm256_storeu_ps(scale + ELLM_TILE_N * (tile / part.unit), integer_scales(block, w.first + tile, half, f));
        if (f->minimum < 0) continue;
        if (f->nested) _mm256_storeu_ps(minimum, integer_super_minimum(block, half, f));
        for (int group = 0; group < w.count * part.groups; group++) {
            int at = w.first * part.groups + group;
            if (f->nested)
                _mm256_storeu_si256(part.halves + 2 * group + half, integer_halves(block, at, half, f));
            else
                _mm256_storeu_ps(minimum + ELLM_TILE_N * group, block_numbers(block, f->minimum, 0, at, half, f));
        }
    }
}

/* Weights of 16 bits, with the scales of nested formats in them, and what else there is. */
BLOCKED integer_part integer_widen(char *scratch, integer_columns w, int n, const ellm_format *f) {
    const int groups = ELLM_TILE_K / (int)f->group, steps = (int)f->group / 4;
    float *numbers = (float *)scratch;
    const char *block = w.block + n * w.stride;
    integer_part part = {.groups = groups, .unit = activation_unit(f), .minimums = f->minimum >= 0, .scale = numbers};
    part.minimum = numbers + INTEGER_DEPTH * ELLM_TILE_N;
    part.halves = (__m256i *)(part.minimum + 2 * INTEGER_DEPTH * ELLM_TILE_N);
    part.lines = (char *)(part.halves + 4 * ACTIVATION_TILES);
    integer_numbers(part, w, block, f);
    for (int tile = 0; tile < w.count; tile++) {
        block_prefetch(block, w.first + tile, w.ahead, f);
        for (int half = 0; half < 2; half++) {
            const char *codes = block + f->header + (w.first + tile) * f->tile;
            char *out = (char *)part.lines + 2 * ELLM_TILE * tile + 32 * half;
            for (int group = 0; group < groups; group++) {
                __m256i factor = _mm256_setzero_si256();
                if (f->nested) factor = integer_factors(block, (w.first + tile) * groups + group, half, f);
                factor = _mm256_blend_epi16(factor, _mm256_slli_epi32(factor, 16), 0xaa);
#pragma GCC unroll 8
                for (int step = group * steps; step < (group + 1) * steps; step++) {
                    __m256i worths = block_worths(block_codes(codes, step, half, f), f);
                    __m256i low = integer_pair(worths, 0, 1, f), high = integer_pair(worths, 1, 1, f);
                    if (f->nested) low = _mm256_mullo_epi16(low, factor), high = _mm256_mullo_epi16(high, factor);
                    _mm256_storeu_si256((__m256i *)(out + 128 * step), low);
                    _mm256_storeu_si256((__m256i *)(out + 128 * step + 64), high);
                }
            }
        }
    }
    return part;
}

/* Half a row of C, and what a unit of `count` tiles adds to it. */
BLOCKED __m256 integer_unit(__m256 sum, __m256i dot, const activation_side *side, integer_part part, int tile, int count,
                            int half) {
    const float *scale = part.scale + ELLM_TILE_N * (tile / part.unit) + INTEGER_HALF * half;
    const float *minimum = part.minimum + INTEGER_HALF * half;
    float scaled = side->scale;
    __m256i least = _mm256_setzero_si256();
    sum = integer_add(sum, dot, _mm256_loadu_ps(scale), scaled);
    if (!part.minimums) return sum;
    if (part.unit == 1) {
        for (int group = 0; group < part.groups; group++) {
            const float *each = minimum + ELLM_TILE_N * (tile * part.groups + group);
            sum = integer_add_minimum(sum, _mm256_loadu_ps(each), side->sums[group]);
        }
        return sum;
    }
    for (const __m256i *halves = part.halves + half; count > 0; count--, side++)
        for (int group = 0; group < part.groups; group++, halves += 2) {
            __m256i added = _mm256_madd_epi16(_mm256_loadu_si256(halves), _mm256_set1_epi32(side->sums[group]));
            least = _mm256_add_epi32(least, added);
        }
    return integer_add(sum, least, _mm256_loadu_ps(minimum), scaled);
}

/* A block of R rows and a column tile; R is a constant where this is inlined. */
BLOCKED void integer_pairs(const int R, integer_operand x, integer_part part, int count, integer_sums sums) {
    for (int tile = 0; tile < count; tile += part.unit) {
        const __m256i *lines = (const __m256i *)(part.lines + 2 * ELLM_TILE * tile);
        const char *a = x.cells + tile * ACTIVATION_CELL; /* cells follow each other as lines do */
        int tiles = count - tile < part.unit ? count - tile : part.unit;
        integer_lanes dot[INTEGER_ROWS][2];
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) dot[r][0] = dot[r][1] = (integer_lanes)_mm256_setzero_si256();
#pragma GCC unroll 1
        for (int pair = 0; pair < tiles * ELLM_TILE_PAIRS; pair++) {
            __m256i left = _mm256_loadu_si256(lines + 2 * pair), right = _mm256_loadu_si256(lines + 2 * pair + 1);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                __m256i row = integer_word(a + r * x.lda + 4 * pair);
                dot[r][0] += (integer_lanes)_mm256_madd_epi16(left, row);
                dot[r][1] += (integer_lanes)_mm256_madd_epi16(right, row);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const activation_side *side = integer_side(x.sides + tile, r * x.lda);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                float *c = sums.c + r * sums.ldc + INTEGER_HALF * half;
                __m256 sum = sums.accumulate || tile ? _mm256_loadu_ps(c) : _mm256_setzero_ps();
                _mm256_storeu_ps(c, integer_unit(sum, (__m256i)dot[r][half], side, part, tile, tiles, half));
            }
        }
    }
}

/* c (= or +=) a . W of a column tile, by blocks of rows. */
static __attribute__((noinline)) void integer_blocks(integer_operand x, integer_part part, int count, integer_sums sums) {
    for (; x.rows > 0; x.rows -= INTEGER_ROWS) {
        switch (x.rows) {
        case 1: integer_pairs(1, x, part, count, sums); break;
        case 2: integer_pairs(2, x, part, count, sums); break;
        case 3: integer_pairs(3, x, part, count, sums); break;
        case 4: integer_pairs(4, x, part, count, sums); break;
        case 5: integer_pairs(5, x, part, count, sums); break;
        default: integer_pairs(6, x, part, count, sums); break;
        }
        x.cells += INTEGER_ROWS * x.lda;
        x.sides = integer_side(x.sides, INTEGER_ROWS * x.lda);
        sums.c += INTEGER_ROWS * sums.ldc;
    }
}

/* Many rows. */
BLOCKED void integer_rows(integer_operand x, integer_columns w, integer_sums sums, char *scratch, const ellm_format *f) {
    for (int n = 0; n < w.n_tiles; n++, sums.c += ELLM_TILE_N)
        integer_blocks(x, integer_widen(scratch, w, n, f), w.count, sums);
}

#endif
