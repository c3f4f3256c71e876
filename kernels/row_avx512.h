/* One row times EXPAND_COLUMNS column tiles, expanded in registers: the sums of tile_avx512.h over expanded
 * tiles, in the same order, without a way through memory. */
#ifndef ELLM_ROW_AVX512_H
#define ELLM_ROW_AVX512_H
#define EXPAND_ROW

/* Two elements of the row for each column. */
static inline __m512bh row_pair(const ellm_bf16 *a) {
    int32_t two;
    memcpy(&two, a, sizeof two);
    return (__m512bh)_mm512_set1_epi32(two);
}

static inline void row_fp8(const ellm_bf16 *a, const char *block, int64_t stride, int count, __m512 *sum, int64_t ahead) {
    e4m3_decoder decoder = e4m3_decoder_load();
    e4m3_scales scales[EXPAND_COLUMNS];
#pragma GCC unroll 4
    for (int n = 0; n < EXPAND_COLUMNS; n++) {
        scales[n] = e4m3_scales_load(block + n * stride);
        fetch_line(block + n * stride + ahead);
    }
    for (int row = 0; row < ELLM_TILE_PAIRS * count; row += 2) {
        __m512bh first = row_pair(a + 2 * row), second = row_pair(a + 2 * row + 2);
#pragma GCC unroll 4
        for (int n = 0; n < EXPAND_COLUMNS; n++) {
            const char *line = block + n * stride + ELLM_FP8_HEADER + ELLM_TILE_ROW * row;
            __m512i rows[2];
            fetch_line(line + ahead);
            e4m3_rows(line, &decoder, scales[n], rows);
            sum[n] = _mm512_dpbf16_ps(sum[n], first, (__m512bh)rows[0]);
            sum[n] = _mm512_dpbf16_ps(sum[n], second, (__m512bh)rows[1]);
        }
    }
}

static inline void row_mxfp4(const ellm_bf16 *a, const char *block, int64_t stride, int count, __m512 *sum, int64_t ahead) {
    __m512i table = _mm512_loadu_si512(E2M1_BF16);
    for (int n = 0; n < EXPAND_COLUMNS; n++) fetch_line(block + n * stride + ahead);
    for (int tile = 0; tile < count; tile++) {
        __m512i scales[EXPAND_COLUMNS];
#pragma GCC unroll 4
        for (int n = 0; n < EXPAND_COLUMNS; n++) scales[n] = e2m1_scale(block + n * stride + ELLM_TILE_N * tile);
        for (int row = ELLM_TILE_PAIRS * tile; row < ELLM_TILE_PAIRS * (tile + 1); row += 4) {
            const char *line = block + ELLM_MXFP4_HEADER + ELLM_TILE_N * row;
            __m512i codes[EXPAND_COLUMNS];
#pragma GCC unroll 4
            for (int n = 0; n < EXPAND_COLUMNS; n++) {
                codes[n] = _mm512_loadu_si512(line + n * stride);
                fetch_line(line + n * stride + ahead);
            }
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
#pragma GCC unroll 4
                for (int n = 0; n < EXPAND_COLUMNS; n++) {
                    __m512bh column = (__m512bh)e2m1_row(codes[n], i, table, scales[n]);
                    sum[n] = _mm512_dpbf16_ps(sum[n], row_pair(a + 2 * (row + i)), column);
                }
        }
    }
}

/* c (= or +=) a . W for `count` k tiles of EXPAND_COLUMNS column tiles, `stride` bytes apart: the sums of tile_avx512.h over
 * expanded tiles, in the same order, without a way through memory. */
BLOCKED void row_blocks(const ellm_bf16 *a, const char *block, int64_t stride, int first, int count, float *c,
                        int accumulate, int64_t ahead, const ellm_format *f) {
    __m512 sum[EXPAND_COLUMNS];
    __m512i low[EXPAND_COLUMNS][EXPAND_SHALLOW][ELLM_TILE_PAIRS]; /* second terms, added after all of the first ones */
    for (int n = 0; n < EXPAND_COLUMNS; n++)
        sum[n] = accumulate ? _mm512_loadu_ps(c + ELLM_TILE_N * n) : _mm512_setzero_ps();
    for (int tile = first; tile < first + count; tile++) {
        for (int n = 0; n < EXPAND_COLUMNS; n++) block_prefetch(block + n * stride, tile, ahead, f);
        const char *codes = block + f->header + tile * f->tile;
        for (int n = 0; n < EXPAND_COLUMNS; n++) {
            block_scales scales;
#pragma GCC unroll 8
            for (int step = 0; step < ELLM_TILE_K / 4; step++) {
                const ellm_bf16 *x = a + ELLM_TILE_K * (tile - first) + 4 * step;
                __m512i rows[2];
                if (4 * step % f->group == 0)
                    scales = block_scales_load(block + n * stride, (ELLM_TILE_K * tile + 4 * step) / f->group, f);
                block_rows(codes + n * stride, step, &scales, rows, &low[n][(tile - first) % EXPAND_SHALLOW][2 * step], f);
                sum[n] = _mm512_dpbf16_ps(sum[n], row_pair(x), (__m512bh)rows[0]);
                sum[n] = _mm512_dpbf16_ps(sum[n], row_pair(x + 2), (__m512bh)rows[1]);
            }
        }
    }
    if (f->terms > 1)
        for (int row = 0; row < ELLM_TILE_PAIRS * count; row++)
            for (int n = 0; n < EXPAND_COLUMNS; n++)
                sum[n] = _mm512_dpbf16_ps(sum[n], row_pair(a + 2 * row), (__m512bh)(&low[n][0][0])[row]);
    for (int n = 0; n < EXPAND_COLUMNS; n++) _mm512_storeu_ps(c + ELLM_TILE_N * n, sum[n]);
}

/* c (= or +=) a . W for k tiles [k, k + count) of column tiles that are `stride` bytes apart, within a block. Returns 0, and
 * does nothing, for a format or scales that it cannot expand. */
static inline int row_multiply(const ellm_bf16 *a, const char *column, int64_t stride, int64_t format, int k, int count,
                               float *c, int accumulate, int64_t ahead) {
    const char *block = column + k / ELLM_FORMATS[format].block * block_bytes(format);
    int first = k % (int)ELLM_FORMATS[format].block;
    switch (format) {
#define ROW(NAME, name)                                                                                              \
    case ELLM_##NAME:                                                                                                \
        row_blocks(a, block, stride, first, count, c, accumulate, ahead, &ELLM_FORMATS[ELLM_##NAME]); \
        return 1;
        ELLM_BLOCKED(ROW)
#undef ROW
    }
    __m512 sum[EXPAND_COLUMNS];
    for (int n = 0; n < EXPAND_COLUMNS; n++) {
        if (format != ELLM_FP8 && !(format == ELLM_MXFP4 && e2m1_normal(block + n * stride, 0, count))) return 0;
        sum[n] = accumulate ? _mm512_loadu_ps(c + ELLM_TILE_N * n) : _mm512_setzero_ps();
    }
    if (format == ELLM_FP8)
        row_fp8(a, block, stride, count, sum, ahead);
    else
        row_mxfp4(a, block, stride, count, sum, ahead);
    for (int n = 0; n < EXPAND_COLUMNS; n++) _mm512_storeu_ps(c + ELLM_TILE_N * n, sum[n]);
    return 1;
}

#endif
