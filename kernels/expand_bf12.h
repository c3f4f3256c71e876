/* bf16 in 12 bits (bf12.py), in plain C; expand.h says what the names mean. */
#ifndef ELLM_EXPAND_BF12_H
#define ELLM_EXPAND_BF12_H
#include "bf12.h"

static inline const bf12_header *bf12_header_of(const char *block) { return (const bf12_header *)block; }

static inline int bf12_wide(const char *block) { return bf12_header_of(block)->patches == BF12_WIDE; }

/* Byte i of a line of low bytes. */
static inline uint32_t bf12_low(const char *block, int line, int i) {
    return (uint8_t)block[sizeof(bf12_header) + line / 2 * BF12_GROUP + line % 2 * BF12_LINE + i];
}

/* The high byte that belongs to it, but for patches. */
static inline uint32_t bf12_high(const char *block, int line, int i) {
    uint8_t both = block[sizeof(bf12_header) + line / 2 * BF12_GROUP + 2 * BF12_LINE + i];
    uint32_t code = both >> 4 * (line % 2) & 15;
    if (!bf12_wide(block)) return bf12_header_of(block)->high[code];
    int64_t distance;
    memcpy(&distance, block + BF12_DISTANCE, sizeof distance);
    uint8_t upper = block[distance + line / 2 * BF12_LINE + i];
    return code | (upper >> 4 * (line % 2) & 15) << 4;
}

static inline float bf12_element(const char *block, int64_t n, int64_t k) {
    const bf12_header *header = bf12_header_of(block);
    int place = (int)expand_place(n, k), line = place / BF12_LINE;
    int i = bf12_byte(place);
    uint32_t high = bf12_high(block, line, i);
    for (int patch = 0; !bf12_wide(block) && patch < header->patches; patch++)
        if (header->place[patch] == place) high = header->patch[patch];
    return f32_from_bf16((ellm_bf16)(high << 8 | bf12_low(block, line, i)));
}

/* Gives an expanded element the high byte that it has no code for. */
static inline void bf12_patch_one(const bf12_header *header, int patch, ellm_bf16 *element) {
    *element = (ellm_bf16)(header->patch[patch] << 8 | (*element & 0xff));
}

/* As above, of tiles [first, first + count) of a block, which are at `out`. */
static inline void bf12_patch(const bf12_header *header, int first, int count, ellm_bf16 *out) {
    for (int patch = 0; patch < header->patches; patch++) {
        int place = header->place[patch] - ELLM_TILE * first;
        if (place >= 0 && place < ELLM_TILE * count) bf12_patch_one(header, patch, out + place);
    }
}

static inline void expand_bf12_plain(const char *block, int first, int count, ellm_bf16 *restrict out, ellm_bf16 *low,
                                     int64_t ahead) {
    int skipped = ELLM_TILE / BF12_LINE * first;
    for (int line = 0; line < ELLM_TILE / BF12_LINE * count; line++)
        for (int i = 0; i < BF12_LINE; i++)
            out[BF12_LINE * line + bf12_place(i)] =
                (ellm_bf16)(bf12_high(block, skipped + line, i) << 8 | bf12_low(block, skipped + line, i));
    if (!bf12_wide(block)) bf12_patch(bf12_header_of(block), first, count, out);
}

#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)
#include "expand_bf12_avx512.h"
#elif defined(__AVX2__)
#include "expand_bf12_avx2.h"
#else
#define EXPAND_BF12 expand_bf12_plain
#endif

#endif
