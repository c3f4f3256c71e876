/* expand_bf12.h by AVX-512 with VBMI, bit for bit. */
#ifndef ELLM_EXPAND_BF12_AVX512_H
#define ELLM_EXPAND_BF12_AVX512_H

/* The high bytes of all codes, four times: permutations look at six bits of an index. */
static inline __m512i bf12_table(const char *block) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)block));
}

/* The high bytes of two of the four rows of a group, but for patches. */
static inline __m512i bf12_coded(const char *group, int half, __m512i table) {
    __m512i codes = _mm512_loadu_si512(group + 2 * BF12_LINE);
    return _mm512_permutexvar_epi8(half ? _mm512_srli_epi16(codes, 4) : codes, table);
}

/* These rows. */
static inline void bf12_pairs(const char *group, int half, __m512i high, __m512i rows[2]) {
    __m512i low = _mm512_loadu_si512(group + BF12_LINE * half);
    rows[0] = _mm512_unpacklo_epi8(low, high);
    rows[1] = _mm512_unpackhi_epi8(low, high);
}

static inline void bf12_half(const char *group, int half, __m512i table, __m512i rows[2]) {
    bf12_pairs(group, half, bf12_coded(group, half, table), rows);
}

/* Four rows of a tile. */
static inline void bf12_rows(const char *group, __m512i table, __m512i rows[4]) {
    bf12_half(group, 0, table, rows);
    bf12_half(group, 1, table, rows + 2);
}

static inline void bf12_prefetch(const char *group) {
    for (int64_t line = 0; line < BF12_GROUP; line += 64) fetch_line(group + line);
}

#define EXPAND_BF12 expand_bf12
static inline void expand_bf12(const char *block, int first, int count, ellm_bf16 *out, ellm_bf16 *low, int64_t ahead) {
    if (bf12_wide(block)) {
        expand_bf12_plain(block, first, count, out, low, ahead);
        return;
    }
    __m512i table = bf12_table(block);
    if (first == 0) fetch_line(block + ahead);
    const char *groups = block + sizeof(bf12_header) + ELLM_TILE_PAIRS / 4 * BF12_GROUP * first;
    for (int row = 0; row < ELLM_TILE_PAIRS * count; row += 4) {
        const char *group = groups + row / 4 * BF12_GROUP;
        __m512i rows[4];
        bf12_prefetch(group + ahead);
        bf12_rows(group, table, rows);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) _mm512_store_si512(out + ELLM_TILE_ROW * (row + i), rows[i]);
    }
    bf12_patch(bf12_header_of(block), first, count, out);
}

#endif
