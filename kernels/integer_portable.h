/* integer.h in plain C. */
#ifndef ELLM_INTEGER_PORTABLE_H
#define ELLM_INTEGER_PORTABLE_H

#define INTEGER_DEPTH 4
#define INTEGER_ROW_COLUMNS EXPAND_COLUMNS

/* What scales a tile's sum in column n: the scale of its group of k or, of a nested format, of the block. */
BLOCKED float integer_scale(const char *block, int tile, int n, const ellm_format *f) {
    if (f->nested) return block_half(block + f->super_scale + 2 * n);
    if (f->powers) return f32_from_e8m0((uint8_t)block[f->scale + ELLM_TILE_N * tile + n]) * f->unit;
    return block_number(block, f->scale, f->super_scale, tile, n, f);
}

/* The codes of a step, four k of each column, a byte each. */
BLOCKED void integer_codes(const char *tile, int step, uint32_t *restrict codes, const ellm_format *f) {
    memset(codes, 0, ELLM_TILE_N * sizeof *codes);
    for (int width = 8, low = 0; width; width /= 2) {
        if (!(f->bits & width)) continue;
        uint32_t words[ELLM_TILE_N], mask = 0x01010101u * ((1u << width) - 1);
        memcpy(words, tile + step * width / 8 * sizeof words, sizeof words);
        for (int n = 0; n < ELLM_TILE_N; n++) codes[n] |= (words[n] >> step * width % 8 & mask) << low;
        low += width;
        tile += ELLM_TILE * width / 8;
    }
}

/* The weights of a tile as whole numbers [n][k], with the scales of nested formats in them. */
BLOCKED void integer_weights(const char *block, int tile, int16_t (*restrict out)[ELLM_TILE_K], const ellm_format *f) {
    static const int place[4] = {0, 2, 1, 3};
    for (int step = 0; step < ELLM_TILE_K / 4; step++) {
        uint32_t codes[ELLM_TILE_N];
        int64_t group = (tile * ELLM_TILE_K + 4 * step) / f->group;
        integer_codes(block + f->header + tile * f->tile, step, codes, f);
        for (int n = 0; n < ELLM_TILE_N; n++)
            for (int byte = 0; byte < 4; byte++) {
                int code = (int)(codes[n] >> 8 * byte & 255), worth = f->table ? f->worth[code] : code - (int)f->zero;
                if (f->nested) worth *= ((const int8_t *)block + f->scale)[ELLM_TILE_N * group + n];
                out[n][4 * step + place[byte]] = (int16_t)worth;
            }
    }
}

/* dot += a . weights of a tile. */
static inline void integer_dot(const int16_t *restrict a, int16_t (*restrict weights)[ELLM_TILE_K], int32_t *restrict dot) {
    for (int n = 0; n < ELLM_TILE_N; n++) {
        int32_t sum = 0;
        for (int k = 0; k < ELLM_TILE_K; k++) sum += a[k] * weights[n][k];
        dot[n] += sum;
    }
}

/* c += f32(dot) (scale s), of plain formats and what their minimums add. */
BLOCKED void integer_scaled(const char *block, int tile, const activation_side *side, const int32_t *dot, float *c,
                            const ellm_format *f) {
    const int groups = ELLM_TILE_K / (int)f->group;
    for (int n = 0; n < ELLM_TILE_N; n++) {
        c[n] += (float)dot[n] * (integer_scale(block, tile, n, f) * side->scale);
        for (int group = 0; f->minimum >= 0 && !f->nested && group < groups; group++)
            c[n] += block_number(block, f->minimum, 0, tile * groups + group, n, f) * float_of((uint32_t)side->sums[group]);
    }
}

/* c += f32(M) (m s) of a unit of a nested format. */
BLOCKED void integer_least(const char *block, int count, const activation_side *side, float *c, const ellm_format *f) {
    const int groups = ELLM_TILE_K / (int)f->group;
    for (int n = 0; n < ELLM_TILE_N; n++) {
        int32_t least = 0;
        for (int group = 0; group < count * groups; group++) {
            int32_t sum = side[group / groups].sums[group % groups], low = sum & (ACTIVATION_SPLIT - 1);
            int32_t minimum = ((const int8_t *)block + f->minimum)[ELLM_TILE_N * group + n];
            least += minimum * ((sum - low) / 65536 * ACTIVATION_SPLIT + low);
        }
        c[n] += (float)least * (block_half(block + f->super_minimum + 2 * n) * side->scale);
    }
}

BLOCKED void integer_rows(integer_operand x, integer_columns w, integer_sums sums, char *scratch, const ellm_format *f) {
    const int unit = activation_unit(f);
    int16_t(*weights)[ELLM_TILE_N][ELLM_TILE_K] = (int16_t(*)[ELLM_TILE_N][ELLM_TILE_K])scratch;
    for (int n = 0; n < w.n_tiles; n++)
        for (int first = 0; first < w.count; first += unit) {
            const char *block = w.block + n * w.stride;
            int count = w.count - first < unit ? w.count - first : unit;
            for (int tile = 0; tile < count; tile++) integer_weights(block, w.first + first + tile, weights[tile], f);
            for (int row = 0; row < x.rows; row++) {
                const activation_side *side = integer_side(x.sides + first, row * x.lda);
                const char *cells = x.cells + row * x.lda + first * ACTIVATION_CELL;
                float *c = sums.c + row * sums.ldc + ELLM_TILE_N * n;
                int32_t dot[ELLM_TILE_N] = {0};
                if (!sums.accumulate && first == 0) memset(c, 0, ELLM_TILE_N * sizeof *c);
                for (int tile = 0; tile < count; tile++)
                    integer_dot((const int16_t *)(cells + tile * ACTIVATION_CELL), weights[tile], dot);
                integer_scaled(block, w.first + first, side, dot, c, f);
                if (f->nested && f->minimum >= 0) integer_least(block, count, side, c, f);
            }
        }
}

BLOCKED void integer_row(integer_operand x, integer_columns w, integer_sums sums, const ellm_format *f) {
    int16_t weights[ACTIVATION_TILES][ELLM_TILE_N][ELLM_TILE_K];
    integer_rows(x, w, sums, (char *)weights, f);
}

#endif
