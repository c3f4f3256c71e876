/* Packing of the format that bf12.py gives the layout of. */
#ifndef ELLM_PACK_BF12_H
#define ELLM_PACK_BF12_H
#include <string.h>

#include "bf12.h"

/* The bytes of a block's elements in order, and what the high ones are coded as. */
typedef struct bf12_bytes {
    uint8_t low[BF12_BLOCK], high[BF12_BLOCK], code[BF12_BLOCK];
} bf12_bytes;

/* Codes for exponents that lie close below the largest one; returns 0 if some do not. It needs no counts. */
static inline int bf12_code_near(bf12_bytes *b, bf12_header *header) {
    uint8_t top = 0, most = 0;
    for (int i = 0; i < BF12_BLOCK; i++) {
        uint8_t exponent = b->high[i] & 0x7f;
        top = top > exponent ? top : exponent;
    }
    for (int i = 0; i < BF12_BLOCK; i++) {
        uint8_t below = top - (b->high[i] & 0x7f);
        most |= below;
        b->code[i] = (b->high[i] & 0x80) >> 4 | below;
    }
    for (int code = 0; code < 16; code++)
        header->high[code] = (code & 8) << 4 | (top > (code & 7) ? top - (code & 7) : 0);
    return most < 8;
}

/* The commonest bytes, of equally common ones the least first; returns how many elements have none of them. */
static inline int bf12_commonest(const uint8_t *bytes, uint8_t high[16]) {
    uint32_t part[4][256] = {{0}}, best[16] = {0}; /* best: count, then 255 - byte */
    int left = BF12_BLOCK;
    for (int i = 0; i < BF12_BLOCK; i += 4) /* four counts, as the same byte often comes again at once */
        for (int j = 0; j < 4; j++) part[j][bytes[i + j]]++;
    for (int byte = 0; byte < 256; byte++) {
        uint32_t key = (part[0][byte] + part[1][byte] + part[2][byte] + part[3][byte]) << 8 | (255 - byte);
        int place = 15;
        if (key < 256 || key <= best[place]) continue;
        for (; place > 0 && best[place - 1] < key; place--) best[place] = best[place - 1];
        best[place] = key;
    }
    for (int code = 0; code < 16; code++) {
        high[code] = best[code] ? 255 - best[code] % 256 : 0;
        left -= best[code] >> 8;
    }
    return left;
}

/* Codes for the commonest high bytes, and a list of elements that have others; returns 0 if there are too many. */
static inline int bf12_code_commonest(bf12_bytes *b, bf12_header *header) {
    uint8_t code[256];
    int left = bf12_commonest(b->high, header->high);
    if (left > BF12_PATCHES) return 0;
    memset(code, BF12_WIDE, sizeof code);
    for (int i = 15; i >= 0; i--) code[header->high[i]] = i;
    for (int i = 0; i < BF12_BLOCK; i++) b->code[i] = code[b->high[i]];
    for (int i = 0; left && i < BF12_BLOCK; i++) {
        if (b->code[i] != BF12_WIDE) continue;
        b->code[i] = 0;
        header->place[header->patches] = i;
        header->patch[header->patches++] = b->high[i];
    }
    return 1;
}

/* Two lines of bytes, `first` and what follows, as they stand in a group. Codes go into the halves of one line. */
static inline void bf12_write_lines(const uint8_t *first, uint8_t *out, int codes) {
    for (int run = 0; run < BF12_LINE / 8; run++) {
        uint64_t one, two;
        memcpy(&one, first + bf12_place(8 * run), 8);
        memcpy(&two, first + BF12_LINE + bf12_place(8 * run), 8);
        if (codes) one |= two << 4;
        memcpy(out + 8 * run, &one, 8);
        if (!codes) memcpy(out + BF12_LINE + 8 * run, &two, 8);
    }
}

static inline void bf12_write(const bf12_bytes *b, const bf12_header *header, char *block) {
    memcpy(block, header, sizeof *header);
    for (int group = 0; group < BF12_BLOCK / 128; group++) {
        uint8_t *out = (uint8_t *)block + sizeof *header + group * BF12_GROUP;
        bf12_write_lines(b->low + 128 * group, out, 0);
        bf12_write_lines(b->code + 128 * group, out + 2 * BF12_LINE, 1);
    }
}

static inline void bf12_split(const uint16_t *elements, bf12_bytes *b) {
    for (int i = 0; i < BF12_BLOCK; i++) {
        b->low[i] = (uint8_t)elements[i];
        b->high[i] = (uint8_t)(elements[i] >> 8);
    }
}

/* Packs the bf16 of a block, its tiles one after the other. Returns 0, and has done nothing, if it must be wide. */
static inline int bf12_pack(const uint16_t *elements, char *block) {
    bf12_header header = {{0}};
    bf12_bytes b;
    bf12_split(elements, &b);
    if (!bf12_code_near(&b, &header) && !bf12_code_commonest(&b, &header)) return 0;
    bf12_write(&b, &header, block);
    return 1;
}

/* Packs a wide block, whose upper halves go to `spill`. */
static inline void bf12_pack_wide(const uint16_t *elements, char *block, char *spill) {
    bf12_header header = {{0}};
    int64_t distance = spill - block;
    bf12_bytes b;
    bf12_split(elements, &b);
    for (int i = 0; i < BF12_BLOCK; i++) b.code[i] = b.high[i] & 15;
    header.patches = BF12_WIDE;
    bf12_write(&b, &header, block);
    memcpy(block + BF12_DISTANCE, &distance, sizeof distance);
    for (int i = 0; i < BF12_BLOCK; i++) b.code[i] = b.high[i] >> 4;
    for (int group = 0; group < BF12_BLOCK / 128; group++)
        bf12_write_lines(b.code + 128 * group, (uint8_t *)spill + group * BF12_LINE, 1);
}

#endif
