/* integer.h in plain C. */
#ifndef ELLM_INTEGER_PORTABLE_H
#define ELLM_INTEGER_PORTABLE_H

#define INTEGER_DEPTH 4

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

static inline void integer_dot(const int16_t *restrict a, int16_t (*restrict weights)[ELLM_TILE_K], int32_t *restrict dot) {
    for (int n = 0; n < ELLM_TILE_N; n++) {
        int32_t sum = 0;
        for (int k = 0; k < ELLM_TILE_K; k++) sum += a[k] * weights[n][k];
        dot[n] = sum;
    }
}

BLOCKED void integer_rows(integer_operand x, integer_columns w, integer_sums sums, char *scratch, const ellm_format *f) {
    const int groups = ELLM_TILE_K / (int)f->group;
    int16_t(*weights)[ELLM_TILE_K] = (int16_t(*)[ELLM_TILE_K])scratch;
    for (int n = 0; n < w.n_tiles; n++)
        for (int tile = w.first; tile < w.first + w.count; tile++) {
            const char *block = w.block + n * w.stride;
            float scale[ELLM_TILE_N], minimum[2][ELLM_TILE_N];
            integer_weights(block, tile, weights, f);
            for (int i = 0; i < ELLM_TILE_N; i++) {
                scale[i] = integer_scale(block, tile, i, f);
                for (int group = 0; f->minimum >= 0 && group < groups; group++)
                    minimum[group][i] = block_number(block, f->minimum, f->super_minimum, tile * groups + group, i, f);
            }
            for (int row = 0; row < x.rows; row++) {
                const activation_side *side = integer_side(x.sides + tile - w.first, row * x.lda);
                float *c = sums.c + row * sums.ldc + ELLM_TILE_N * n;
                int32_t dot[ELLM_TILE_N];
                integer_dot((const int16_t *)(x.cells + row * x.lda + (tile - w.first) * ACTIVATION_CELL), weights, dot);
                for (int i = 0; i < ELLM_TILE_N; i++) {
                    float sum = sums.accumulate || tile > w.first ? c[i] : 0;
                    sum += (float)dot[i] * (scale[i] * side->scale);
                    for (int group = 0; f->minimum >= 0 && group < groups; group++)
                        sum += minimum[group][i] * float_of((uint32_t)side->sums[group]);
                    c[i] = sum;
                }
            }
        }
}

BLOCKED void integer_row(integer_operand x, integer_columns w, integer_sums sums, const ellm_format *f) {
    int16_t weights[ELLM_TILE_N][ELLM_TILE_K];
    integer_rows(x, w, sums, (char *)weights, f);
}

#endif
