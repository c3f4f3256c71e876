/* expand_bf12.h by AVX2, bit for bit. */
#ifndef ELLM_EXPAND_BF12_AVX2_H
#define ELLM_EXPAND_BF12_AVX2_H

/* Half `half` of two rows of a tile, of the high bytes that 32 codes stand for. */
static inline void bf12_store(const char *line, int half, __m256i table, __m256i codes, ellm_bf16 *out) {
    __m256i low = _mm256_loadu_si256((const __m256i *)line + half);
    __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(codes, _mm256_set1_epi8(15)));
    out += ELLM_TILE_ROW / 2 * half;
    _mm256_store_si256((__m256i *)out, _mm256_unpacklo_epi8(low, high));
    _mm256_store_si256((__m256i *)(out + ELLM_TILE_ROW), _mm256_unpackhi_epi8(low, high));
}

#define EXPAND_BF12 expand_bf12
static inline void expand_bf12(const char *block, int first, int count, ellm_bf16 *out, ellm_bf16 *low, int64_t ahead) {
    if (bf12_wide(block)) {
        expand_bf12_plain(block, first, count, out, low, ahead);
        return;
    }
    __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)block));
    if (first == 0) fetch_line(block + ahead);
    const char *groups = block + sizeof(bf12_header) + ELLM_TILE_PAIRS / 4 * BF12_GROUP * first;
    for (int row = 0; row < ELLM_TILE_PAIRS * count; row += 4) {
        const char *group = groups + row / 4 * BF12_GROUP;
        for (int64_t line = 0; line < BF12_GROUP; line += 64) fetch_line(group + ahead + line);
        for (int half = 0; half < 2; half++) {
            __m256i codes = _mm256_loadu_si256((const __m256i *)(group + 2 * BF12_LINE) + half);
            bf12_store(group, half, table, codes, out + ELLM_TILE_ROW * row);
            bf12_store(group + BF12_LINE, half, table, _mm256_srli_epi16(codes, 4), out + ELLM_TILE_ROW * (row + 2));
        }
    }
    bf12_patch(bf12_header_of(block), first, count, out);
}

#endif
