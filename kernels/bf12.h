/* The layout of blocks of bf16 in 12 bits, which bf12.py explains. */
#ifndef ELLM_BF12_BLOCK_H
#define ELLM_BF12_BLOCK_H
#include <stdint.h>

#define BF12_BLOCK 2048 /* elements */
#define BF12_LINE 64    /* elements of two rows of a tile */
#define BF12_GROUP 192  /* bytes of four rows: the low bytes of two and two, and the codes of both */
#define BF12_PATCHES 15
#define BF12_WIDE 255
#define BF12_DISTANCE 24 /* where a header has the distance to what a wide block spills */

typedef struct bf12_header {
    uint8_t high[16]; /* code to high byte */
    uint8_t patches;  /* elements that have none of these, or BF12_WIDE */
    uint8_t none;
    uint16_t place[BF12_PATCHES]; /* of each in the expanded block */
    uint8_t patch[BF12_PATCHES];  /* its high byte */
    uint8_t end;
} bf12_header;

/* Which element of two rows byte i of a line is of: eight of one row and eight of the other stand in turn. */
static inline int bf12_place(int i) { return i / 8 % 2 * 32 + i / 16 * 8 + i % 8; }

/* Which byte of its line an element of a block is. */
static inline int bf12_byte(int place) { return place % 32 / 8 * 16 + place % BF12_LINE / 32 * 8 + place % 8; }

#endif
