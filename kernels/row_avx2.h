/* One row times EXPAND_COLUMNS column tiles, expanded in registers: the sums of tile_fma.h over expanded tiles, in the same
 * order, without a way through memory. */
#ifndef ELLM_ROW_AVX2_H
#define ELLM_ROW_AVX2_H
#define EXPAND_ROW

/* c += x . W for `count` k tiles of a column tile. Returns 0 if codes or scales are not such as can be expanded here. */
static inline int row_fp8(const float *x, const char *block, int count, __m256 c[2], int64_t ahead) {
    __m256 scale[2], sum[2] = {c[0], c[1]};
    __m256i greatest = _mm256_setzero_si256();
    if (!e4m3_scales(block, scale)) return 0;
    for (int row = 0; row < ELLM_TILE_PAIRS * count; row += 2) {
        const char *line = block + ELLM_FP8_HEADER + ELLM_TILE_ROW * row;
        fetch_line(line + ahead);
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            __m256i codes = _mm256_loadu_si256((const __m256i *)line + i);
            __m256 even[2], odd[2];
            greatest = e4m3_greatest(greatest, codes);
            e4m3_row(codes, scale, even, odd);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                sum[half] = _mm256_fmadd_ps(_mm256_broadcast_ss(x + 2 * (row + i)), even[half], sum[half]);
                sum[half] = _mm256_fmadd_ps(_mm256_broadcast_ss(x + 2 * (row + i) + 1), odd[half], sum[half]);
            }
        }
    }
    c[0] = sum[0], c[1] = sum[1];
    return !e4m3_nan(greatest);
}

/* c (= or +=) a . W for k tiles [k, k + count) of column tiles that are `stride` bytes apart, within a block. Returns 0, and
 * does nothing, for a format, codes or scales that it cannot expand. */
static inline int row_multiply(const ellm_bf16 *a, const char *column, int64_t stride, int64_t format, int k, int count,
                               float *c, int accumulate, int64_t ahead) {
    const char *block = column + k / ELLM_FORMATS[format].block * block_bytes(format);
    float x[ELLM_TILE_K * EXPAND_SHALLOW];
    __m256 sum[EXPAND_COLUMNS][2];
    if (format != ELLM_FP8) return 0;
    vector_from_bf16(a, x, ELLM_TILE_K * count);
    for (int n = 0; n < EXPAND_COLUMNS; n++) {
        for (int half = 0; half < 2; half++)
            sum[n][half] = accumulate ? _mm256_loadu_ps(c + ELLM_TILE_N * n + 8 * half) : _mm256_setzero_ps();
        if (!row_fp8(x, block + n * stride, count, sum[n], ahead)) return 0;
    }
    memcpy(c, sum, sizeof sum);
    return 1;
}

#endif
