/* Codes of keys and values in int8 as bf16, which they fit, by AVX-512 with VBMI. */
#ifndef ELLM_CODES_AVX512_H
#define ELLM_CODES_AVX512_H
#include <immintrin.h>

#include "vector.h"

/* Low and high byte of a magnitude in bf16, and an order of codes in which eight of one row of a tile and eight of the next
 * stand in turn, as unpacking needs them. */
typedef struct codes_decoder {
    __m512i low[2], high[2], order;
} codes_decoder;

static inline codes_decoder codes_decoder_load(void) {
    uint8_t low[128], high[128];
    for (int i = 0; i < 128; i++) {
        uint32_t bits = bits_of((float)i);
        low[i] = (uint8_t)(bits >> 16);
        high[i] = (uint8_t)(bits >> 24);
    }
    return (codes_decoder){{_mm512_loadu_si512(low), _mm512_loadu_si512(low + 64)},
                           {_mm512_loadu_si512(high), _mm512_loadu_si512(high + 64)},
                           _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7)};
}

/* Two rows of a tile. */
static inline void codes_rows(const char *codes, const codes_decoder *decoder, __m512i rows[2]) {
    __m512i code = _mm512_permutexvar_epi64(decoder->order, _mm512_loadu_si512(codes)), size = _mm512_abs_epi8(code);
    __m512i low = _mm512_permutex2var_epi8(decoder->low[0], size, decoder->low[1]);
    __m512i high = _mm512_permutex2var_epi8(decoder->high[0], size, decoder->high[1]);
    high = _mm512_ternarylogic_epi32(high, code, _mm512_set1_epi8((char)0x80), 0xf8); /* high | (code & 0x80) */
    rows[0] = _mm512_unpacklo_epi8(low, high);
    rows[1] = _mm512_unpackhi_epi8(low, high);
}

#endif
