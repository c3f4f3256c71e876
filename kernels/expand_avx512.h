/* The expansions of expand.h by AVX-512 with VBMI. Each also fetches what lies `ahead` bytes on, line by line.
 *
 * A row of a tile is 32 elements in order; in f32 it is its elements 0-15 and 16-31. Subnormal results are zero here, as
 * they are to VDPBF16PS and TDPBF16PS. */
#ifndef ELLM_EXPAND_AVX512_H
#define ELLM_EXPAND_AVX512_H
#include <immintrin.h>

/* High and low byte of an E4M3 code's magnitude in bf16. */
static const uint8_t E4M3_HIGH[128] = {
    0, 0x3b, 0x3b, 0x3b, [4 ... 15] = 0x3c, [16 ... 31] = 0x3d, [32 ... 47] = 0x3e, [48 ... 63] = 0x3f,
    [64 ... 79] = 0x40, [80 ... 95] = 0x41, [96 ... 111] = 0x42, [112 ... 126] = 0x43, [127] = 0x7f};
#define E4M3_SIXTEENTHS 0, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0
static const uint8_t E4M3_LOW[128] = {
    0, 0, 0x80, 0xc0, 0, 0x20, 0x40, 0x60, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0,
    E4M3_SIXTEENTHS, 0xf0, E4M3_SIXTEENTHS, 0xf0, E4M3_SIXTEENTHS, 0xf0, E4M3_SIXTEENTHS, 0xf0,
    E4M3_SIXTEENTHS, 0xf0, E4M3_SIXTEENTHS, 0xf0, E4M3_SIXTEENTHS, 0xc0};

/* E2M1 codes in bf16 times 2^126, with +0 for -0 (no sum that begins with +0 shows which); twice, as the index has a fifth
 * bit that does not count. */
#define E2M1_SEVEN(sign) sign | 0x7e00, sign | 0x7e80, sign | 0x7ec0, sign | 0x7f00, sign | 0x7f40, sign | 0x7f80, \
    sign | 0x7fc0
#define E2M1_SIXTEEN 0, E2M1_SEVEN(0), 0, E2M1_SEVEN(0x8000)
static const uint16_t E2M1_BF16[32] = {E2M1_SIXTEEN, E2M1_SIXTEEN};

static inline __m512i expand_round(__m512 first, __m512 second) { return (__m512i)_mm512_cvtne2ps_pbh(second, first); }

/* 32 numbers of f16 as two terms each: what bf16 has of their bits, and what is left. */
static inline void expand_split(__m512 first, __m512 second, __m512i *high, __m512i *low) {
    const __m512 kept = (__m512)_mm512_set1_epi32((int)0xffff0000);
    __m512 first_high = _mm512_and_ps(first, kept), second_high = _mm512_and_ps(second, kept);
    *high = expand_round(first_high, second_high);
    *low = expand_round(_mm512_sub_ps(first, first_high), _mm512_sub_ps(second, second_high));
}

/* 32 bf16 in an order in which each 128-bit lane has elements 4 i .. 4 i + 3, then 16 + 4 i ..; scaled and put in order. */
static inline __m512i expand_scaled(__m512i values, __m512 scale_first, __m512 scale_second) {
    __m512 first = (__m512)_mm512_unpacklo_epi16(_mm512_setzero_si512(), values);
    __m512 second = (__m512)_mm512_unpackhi_epi16(_mm512_setzero_si512(), values);
    return expand_round(_mm512_mul_ps(first, scale_first), _mm512_mul_ps(second, scale_second));
}

typedef struct e4m3_decoder {
    __m512i high[2], low[2], order;
} e4m3_decoder;

static inline e4m3_decoder e4m3_decoder_load(void) {
    return (e4m3_decoder){{_mm512_loadu_si512(E4M3_HIGH), _mm512_loadu_si512(E4M3_HIGH + 64)},
                          {_mm512_loadu_si512(E4M3_LOW), _mm512_loadu_si512(E4M3_LOW + 64)},
                          _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)};
}

/* The scales of the elements 0-15 and 16-31 of a row. */
typedef struct e4m3_scales {
    __m512 first, second;
} e4m3_scales;

static inline e4m3_scales e4m3_scales_load(const char *block) {
    const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    __m512 scale = _mm512_loadu_ps(block);
    return (e4m3_scales){_mm512_permutexvar_ps(twice, scale),
                         _mm512_permutexvar_ps(_mm512_add_epi32(twice, _mm512_set1_epi32(8)), scale)};
}

/* Two rows of a tile from 64 codes. */
static inline void e4m3_rows(const char *line, const e4m3_decoder *decoder, e4m3_scales scales, __m512i rows[2]) {
    __m512i codes = _mm512_permutexvar_epi32(decoder->order, _mm512_loadu_si512(line));
    __m512i lows = _mm512_permutex2var_epi8(decoder->low[0], codes, decoder->low[1]);
    __m512i highs = _mm512_permutex2var_epi8(decoder->high[0], codes, decoder->high[1]);
    highs = _mm512_ternarylogic_epi32(highs, codes, _mm512_set1_epi8((char)0x80), 0xf8); /* highs | codes & 0x80 */
    rows[0] = expand_scaled(_mm512_unpacklo_epi8(lows, highs), scales.first, scales.second);
    rows[1] = expand_scaled(_mm512_unpackhi_epi8(lows, highs), scales.first, scales.second);
}

#define EXPAND_FP8 expand_fp8
static inline void expand_fp8(const char *block, int first, int count, ellm_bf16 *out, ellm_bf16 *low, int64_t ahead) {
    e4m3_decoder decoder = e4m3_decoder_load();
    e4m3_scales scales = e4m3_scales_load(block);
    const char *codes = block + ELLM_FP8_HEADER + ELLM_TILE * first;
    if (first == 0) fetch_line(block + ahead);
    for (int row = 0; row < ELLM_TILE_PAIRS * count; row += 2) {
        const char *line = codes + ELLM_TILE_ROW * row;
        __m512i rows[2];
        fetch_line(line + ahead);
        e4m3_rows(line, &decoder, scales, rows);
        _mm512_store_si512(out + ELLM_TILE_ROW * row, rows[0]);
        _mm512_store_si512(out + ELLM_TILE_ROW * (row + 1), rows[1]);
    }
}

/* Whether e2m1_row can apply the scales of tiles [first, first + count) of a block: no result leaves the normal numbers. */
static inline int e2m1_normal(const char *block, int first, int count) {
    __m512i above = _mm512_sub_epi8(_mm512_loadu_si512(block), _mm512_set1_epi8(2));
    __mmask64 used = _bzhi_u64(~0ull, ELLM_TILE_N * (unsigned)count) << ELLM_TILE_N * first;
    return _mm512_mask_cmpgt_epu8_mask(used, above, _mm512_set1_epi8((char)250)) == 0;
}

/* What is subtracted from the exponents of a tile. */
static inline __m512i e2m1_scale(const char *scales) {
    __m512i scale = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)scales));
    scale = _mm512_slli_epi32(_mm512_sub_epi32(_mm512_set1_epi32(127 + 126), scale), 7);
    return _mm512_or_si512(scale, _mm512_slli_epi32(scale, 16));
}

/* Row `row` of the four that a line of codes holds: two neighbours of it are in the halves of a word, in their low bytes
 * or in their high ones. The subtraction leaves zeros alone. */
static inline __m512i e2m1_row(__m512i line, int row, __m512i table, __m512i scale) {
    __m512i codes = _mm512_srli_epi16(line, (unsigned)(8 * (row % 2) + 4 * (row / 2)));
    return _mm512_subs_epu16(_mm512_permutexvar_epi16(codes, table), scale);
}

#define EXPAND_MXFP4 expand_mxfp4
static inline void expand_mxfp4(const char *block, int first, int count, ellm_bf16 *out, ellm_bf16 *low, int64_t ahead) {
    __m512i table = _mm512_loadu_si512(E2M1_BF16);
    if (!e2m1_normal(block, first, count)) {
        expand_mxfp4_plain(block, first, count, out, low, ahead);
        return;
    }
    if (first == 0) fetch_line(block + ahead);
    for (int tile = first; tile < first + count; tile++) {
        __m512i scale = e2m1_scale(block + ELLM_TILE_N * tile);
        for (int row = ELLM_TILE_PAIRS * tile; row < ELLM_TILE_PAIRS * (tile + 1); row += 4) {
            const char *line = block + ELLM_MXFP4_HEADER + ELLM_TILE_N * row;
            __m512i codes = _mm512_loadu_si512(line);
            fetch_line(line + ahead);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                _mm512_store_si512(out + ELLM_TILE_ROW * (row + i) - ELLM_TILE * first, e2m1_row(codes, i, table, scale));
        }
    }
}

#define EXPAND_F16 expand_f16
static inline void expand_f16(const char *block, int first, int count, ellm_bf16 *high, ellm_bf16 *low, int64_t ahead) {
    for (int row = 0; row < ELLM_TILE_PAIRS * count; row++) {
        const __m256i *at = (const __m256i *)(block + 2 * ELLM_TILE * first + 2 * ELLM_TILE_ROW * row);
        fetch_line((const char *)at + ahead);
        __m512i terms[2];
        expand_split(_mm512_cvtph_ps(_mm256_loadu_si256(at)), _mm512_cvtph_ps(_mm256_loadu_si256(at + 1)), &terms[0], &terms[1]);
        _mm512_store_si512(high + ELLM_TILE_ROW * row, terms[0]);
        _mm512_store_si512(low + ELLM_TILE_ROW * row, terms[1]);
    }
}

#endif
