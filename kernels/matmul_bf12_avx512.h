/* Products with bf16 in 12 bits by AVX-512: the sums of tile_avx512.h over expanded tiles, in the same order. Few rows multiply
 * what is expanded in registers, of one column tile after the other where that pays, else of four side by side. Of more rows,
 * the first ones expand the next block of k while they multiply this one, as shuffles and multiplications use different
 * units, and the others fetch the one after it. */
#ifndef ELLM_MATMUL_BF12_AVX512_H
#define ELLM_MATMUL_BF12_AVX512_H
#define MATMUL_BF12

#define BF12_TILES (BF12_BLOCK / ELLM_TILE)
#define BF12_BYTES (BF12_BLOCK * 3 / 2 + (int64_t)sizeof(bf12_header))
#define BF12_GROUPS (BF12_BLOCK / 128)
#define BF12_FEW (TILE_ROWS * TILE_STREAMS) /* rows of which not each block could fetch a column */

/* The lines of a block whose codes do not give all high bytes, a bit each: all of a wide one, those with patches of others. */
static inline uint32_t bf12_rare_lines(const bf12_header *header) {
    uint32_t lines = 0;
    if (header->patches == BF12_WIDE) return ~lines;
    for (int patch = 0; patch < header->patches; patch++) lines |= 1u << header->place[patch] / BF12_LINE;
    return lines;
}

/* The high bytes of such a line. */
__attribute__((noinline, cold)) static __m512i bf12_rare(const char *block, int line) {
    uint8_t high[BF12_LINE] __attribute__((aligned(64)));
    for (int i = 0; i < BF12_LINE; i++) high[i] = (uint8_t)bf12_high(block, line, i);
    const bf12_header *header = bf12_header_of(block);
    for (int patch = 0; !bf12_wide(block) && patch < header->patches; patch++)
        if (header->place[patch] / BF12_LINE == line) high[bf12_byte(header->place[patch])] = header->patch[patch];
    return _mm512_load_si512(high);
}

/* c = a . W for R rows and one column tile, read in order of memory. R is a constant where this is inlined. */
__attribute__((always_inline)) static inline void bf12_column(const int R, const ellm_bf16 *a, int64_t lda, const char *weight,
                                                             int k_tiles, float *c, int64_t ldc) {
    __m512 sum[TILE_TALL];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) sum[r] = _mm512_setzero_ps();
    for (int k = 0; k < k_tiles; k += BF12_TILES, weight += BF12_BYTES, a += BF12_TILES * ELLM_TILE_K) {
        int lines = (k_tiles - k < BF12_TILES ? k_tiles - k : BF12_TILES) * (ELLM_TILE / BF12_LINE);
        uint32_t rare = bf12_rare_lines(bf12_header_of(weight));
        __m512i table = bf12_table(weight);
        fetch_far(weight + FETCH_FAR);
        for (int line = 0; line < lines; line += 2) {
            const char *group = weight + sizeof(bf12_header) + line / 2 * BF12_GROUP;
#pragma GCC unroll 3
            for (int i = 0; i < 3; i++) fetch_far(group + FETCH_FAR + BF12_LINE * i);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                __m512i rows[2], high = bf12_coded(group, half, table);
                if (__builtin_expect(rare >> (line + half) & 1, 0)) high = bf12_rare(weight, line + half);
                bf12_pairs(group, half, high, rows);
                const ellm_bf16 *x = a + 4 * (line + half);
#pragma GCC unroll 2
                for (int j = 0; j < 2; j++)
#pragma GCC unroll 16
                    for (int r = 0; r < R; r++)
                        sum[r] = _mm512_dpbf16_ps(sum[r], row_pair(x + r * lda + 2 * j), (__m512bh)rows[j]);
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) _mm512_storeu_ps(c + r * ldc, sum[r]);
}

/* C[rows][ELLM_TILE_N * n_tiles] = A . W for up to TILE_TALL rows, one column tile after the other. */
static inline void bf12_in_order(const ellm_bf16 *a, int64_t lda, int rows, const char *weight, int n_tiles, int k_tiles,
                                 float *c, int64_t ldc) {
#define COLUMN(R) \
    case R: bf12_column(R, a, lda, weight, k_tiles, c, ldc); break;
    int64_t stride = column_bytes(ELLM_BF12, k_tiles);
    for (int n = 0; n < n_tiles; n++, weight += stride, c += ELLM_TILE_N)
        switch (rows) {
            COLUMN(1) COLUMN(2) COLUMN(3) COLUMN(4) COLUMN(5) COLUMN(6) COLUMN(7) COLUMN(8)
            COLUMN(9) COLUMN(10) COLUMN(11) COLUMN(12) COLUMN(13) COLUMN(14) COLUMN(15) COLUMN(16)
        }
#undef COLUMN
}

/* Where the groups of a block are that have patches, a bit each. */
static inline uint32_t bf12_patched(const char *block) {
    const bf12_header *header = bf12_header_of(block);
    uint32_t groups = 0;
    for (int patch = 0; patch < header->patches; patch++) groups |= 1u << header->place[patch] / 128;
    return groups;
}

/* As bf12_half, with the patches of the group. */
static inline void bf12_patched_half(const char *block, int group, int half, __m512i rows[2]) {
    const bf12_header *header = bf12_header_of(block);
    ellm_bf16 out[128] __attribute__((aligned(64)));
    __m512i all[4];
    bf12_rows(block + sizeof *header + group * BF12_GROUP, bf12_table(block), all);
    for (int i = 0; i < 4; i++) _mm512_store_si512(out + ELLM_TILE_ROW * i, all[i]);
    for (int patch = 0; patch < header->patches; patch++)
        if (header->place[patch] / 128 == group) bf12_patch_one(header, patch, out + header->place[patch] % 128);
    for (int i = 0; i < 2; i++) rows[i] = _mm512_load_si512(out + ELLM_TILE_ROW * (2 * half + i));
}

/* c (= or +=) a . W for R rows and groups [first, last) of the blocks of TILE_STREAMS column tiles, none of them wide; if P,
 * they may have patches. What is fetched behind the block lies `jump` bytes further on. R and P are constants
 * where this is inlined. */
__attribute__((always_inline)) static inline void bf12_few_rows(
    const int R, const int P, const ellm_bf16 *a, int64_t lda, const char *block, int64_t stride, int first, int last,
    float *c, int64_t ldc, int accumulate, int64_t jump) {
    const int groups = fetch_near ? BF12_GROUPS : BF12_GROUPS / 2; /* that fetching runs ahead */
    __m512 sum[TILE_ROWS][TILE_STREAMS];
    __m512i table[TILE_STREAMS];
#pragma GCC unroll 4
    for (int n = 0; n < TILE_STREAMS; n++) {
        _mm512_store_si512(&table[n], bf12_table(block + n * stride));
        if (first == 0) fetch_line(block + n * stride + groups * BF12_GROUP);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            sum[r][n] = accumulate ? _mm512_loadu_ps(c + r * ldc + ELLM_TILE_N * n) : _mm512_setzero_ps();
    }
    if (R > 4) __asm__("" : "+m"(table)); /* sums and what is expanded leave no registers */
    for (int group = first; group < last; group++) {
        const char *at = block + sizeof(bf12_header) + group * BF12_GROUP;
        const ellm_bf16 *x = a + 8 * group;
        int64_t ahead = groups * BF12_GROUP + (group + groups < BF12_GROUPS ? 0 : jump);
#pragma GCC unroll 4
        for (int n = 0; n < TILE_STREAMS; n++) fetch_line(at + n * stride + ahead + 2 * BF12_LINE);
#pragma GCC unroll 8
        for (int i = 0; i < 2 * TILE_STREAMS; i++) { /* columns side by side, line by line */
            int half = i / TILE_STREAMS, n = i % TILE_STREAMS;
            __m512i rows[2];
            fetch_line(at + n * stride + ahead + BF12_LINE * half);
            if (P)
                bf12_patched_half(block + n * stride, group, half, rows);
            else
                bf12_half(at + n * stride, half, table[n], rows);
            __asm__("" : "+r"(x)); /* pairs are read again, as registers do not hold 4 R of them */
#pragma GCC unroll 2
            for (int j = 0; j < 2; j++)
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) {
                    __m512bh row = row_pair(x + r * lda + 4 * half + 2 * j);
                    sum[r][n] = _mm512_dpbf16_ps(sum[r][n], row, (__m512bh)rows[j]);
                }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int n = 0; n < TILE_STREAMS; n++) _mm512_storeu_ps(c + r * ldc + ELLM_TILE_N * n, sum[r][n]);
}

/* As bf12_few_rows, for `rows` or TILE_ROWS rows, whichever is less. */
__attribute__((always_inline)) static inline void bf12_rows_of_block(
    const int P, const ellm_bf16 *a, int64_t lda, int rows, const char *block, int64_t stride, int first, int last, float *c,
    int64_t ldc, int accumulate, int64_t jump) {
    switch (rows) {
    case 1: return bf12_few_rows(1, P, a, lda, block, stride, first, last, c, ldc, accumulate, jump);
    case 2: return bf12_few_rows(2, P, a, lda, block, stride, first, last, c, ldc, accumulate, jump);
    case 3: return bf12_few_rows(3, P, a, lda, block, stride, first, last, c, ldc, accumulate, jump);
    case 4: return bf12_few_rows(4, P, a, lda, block, stride, first, last, c, ldc, accumulate, jump);
    case 5: return bf12_few_rows(5, P, a, lda, block, stride, first, last, c, ldc, accumulate, jump);
    default: return bf12_few_rows(6, P, a, lda, block, stride, first, last, c, ldc, accumulate, jump);
    }
}

/* c (= or +=) a . W for the first `count` tiles: groups with patches each for itself, all others in runs. */
static inline void bf12_block_of_few(const ellm_bf16 *a, int64_t lda, int rows, const char *block, int64_t stride, int count,
                                     float *c, int64_t ldc, int accumulate, int64_t jump) {
    uint32_t patched = 0;
    int groups = BF12_GROUPS / BF12_TILES * count;
    for (int n = 0; n < TILE_STREAMS; n++) patched |= bf12_patched(block + n * stride);
    for (int first = 0, last; first < groups; first = last) {
        uint32_t left = patched >> first;
        int again = accumulate || first, run = left ? __builtin_ctz(left) : groups - first;
        last = run == 0 ? first + 1 : first + run < groups ? first + run : groups;
        if (run == 0)
            bf12_rows_of_block(1, a, lda, rows, block, stride, first, last, c, ldc, again, jump);
        else
            bf12_rows_of_block(0, a, lda, rows, block, stride, first, last, c, ldc, again, jump);
    }
}

/* The blocks of TILE_STREAMS column tiles, and the tiles that they are expanded to, a block of each side by side. */
typedef struct bf12_part {
    const char *block;
    int64_t stride;
    ellm_bf16 *out;
} bf12_part;

static inline void bf12_expand(bf12_part part) {
    for (int n = 0; n < TILE_STREAMS; n++)
        expand_bf12(part.block + n * part.stride, 0, BF12_TILES, part.out + n * BF12_BLOCK, 0, BF12_BYTES);
}

/* What bf12_block has left of the expansion of a part. */
static inline void bf12_finish(bf12_part part) {
    for (int n = 0; n < TILE_STREAMS; n++) {
        const char *block = part.block + n * part.stride;
        if (bf12_wide(block))
            expand_bf12_plain(block, 0, BF12_TILES, part.out + n * BF12_BLOCK, 0, 0);
        else
            bf12_patch(bf12_header_of(block), 0, BF12_TILES, part.out + n * BF12_BLOCK);
    }
}

/* c (= or +=) a . W for up to BF12_FEW rows and the first `count` tiles of a part. */
static inline void bf12_expand_and_multiply(const ellm_bf16 *a, int64_t lda, int rows, bf12_part part, int count, float *c,
                                            int64_t ldc, int accumulate, int64_t jump) {
    int wide = 0;
    for (int n = 0; n < TILE_STREAMS; n++) wide |= bf12_wide(part.block + n * part.stride);
    if (wide) bf12_expand(part);
    for (int row = 0; row < rows; row += TILE_ROWS) {
        const ellm_bf16 *x = a + row * lda;
        float *out = c + row * ldc;
        if (wide)
            tile_rows(TILE_STREAMS, 0, x, lda, rows - row, part.out, BF12_BLOCK, ELLM_TILE, count, out, ldc, accumulate, part.out);
        else
            bf12_block_of_few(x, lda, rows - row, part.block, part.stride, count, out, ldc, accumulate, jump);
    }
}

/* c (= or +=) a . B for TILE_ROWS rows and a whole expanded part `b`, while `next` is expanded, but for bf12_finish. */
__attribute__((always_inline)) static inline void bf12_block(const ellm_bf16 *a, int64_t lda, const ellm_bf16 *b, float *c,
                                                            int64_t ldc, int accumulate, bf12_part next) {
    __m512 sum[TILE_ROWS][TILE_STREAMS];
    __m512i table[TILE_STREAMS];
    for (int n = 0; n < TILE_STREAMS; n++) _mm512_store_si512(&table[n], bf12_table(next.block + n * next.stride));
    __asm__ volatile("" : "+m"(table)); /* in memory: sums, columns and a row leave no registers */
#pragma GCC unroll 8
    for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 4
        for (int n = 0; n < TILE_STREAMS; n++)
            sum[r][n] = accumulate ? _mm512_loadu_ps(c + r * ldc + ELLM_TILE_N * n) : _mm512_setzero_ps();
    for (int group = 0; group < BF12_GROUPS; group++)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) { /* pair i of a group of rows of this part, column i of the next */
            const char *from = next.block + i * next.stride + sizeof(bf12_header) + group * BF12_GROUP;
            __m512i rows[4], column[TILE_STREAMS];
            bf12_rows(from, table[i], rows);
            for (int row = 0; row < 4; row++)
                _mm512_store_si512(next.out + i * BF12_BLOCK + 128 * group + ELLM_TILE_ROW * row, rows[row]);
            int pair = 4 * group + i;
#pragma GCC unroll 4
            for (int n = 0; n < TILE_STREAMS; n++) column[n] = _mm512_load_si512(b + n * BF12_BLOCK + ELLM_TILE_ROW * pair);
#pragma GCC unroll 8
            for (int r = 0; r < TILE_ROWS; r++) {
                __m512bh row = row_pair(a + r * lda + 2 * pair);
#pragma GCC unroll 4
                for (int n = 0; n < TILE_STREAMS; n++) sum[r][n] = _mm512_dpbf16_ps(sum[r][n], row, (__m512bh)column[n]);
            }
        }
#pragma GCC unroll 8
    for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 4
        for (int n = 0; n < TILE_STREAMS; n++) _mm512_storeu_ps(c + r * ldc + ELLM_TILE_N * n, sum[r][n]);
}

/* c (= or +=) a . B for more than BF12_FEW rows and the first `count` tiles of an expanded part; `next` is expanded, and what
 * lies `ahead` bytes behind its blocks is fetched. */
static inline void bf12_many_rows(const ellm_bf16 *a, int64_t lda, int rows, const ellm_bf16 *b, int count, float *c,
                                  int64_t ldc, int accumulate, bf12_part next, int64_t ahead) {
    int row = 0;
    if (count == BF12_TILES) {
        bf12_block(a, lda, b, c, ldc, accumulate, next);
        bf12_finish(next);
        row = TILE_ROWS;
    } else {
        bf12_expand(next);
    }
    for (int n = 0; row < rows; row += TILE_ROWS, n++) {
        const ellm_bf16 *x = a + row * lda;
        float *out = c + row * ldc;
        if (n < TILE_STREAMS) {
            const ellm_bf16 *fetch = (const ellm_bf16 *)(next.block + n * next.stride + ahead);
            tile_rows(TILE_STREAMS, 1, x, lda, rows - row, b, BF12_BLOCK, ELLM_TILE, count, out, ldc, accumulate, fetch);
        } else {
            tile_rows(TILE_STREAMS, 0, x, lda, rows - row, b, BF12_BLOCK, ELLM_TILE, count, out, ldc, accumulate, b);
        }
    }
}

/* The product that matmul_bf12 makes: its blocks, in the order in which they are multiplied, are numbered. */
typedef struct bf12_product {
    const ellm_bf16 *a;
    int64_t lda;
    int rows;
    const char *weight;
    int k_tiles, parts; /* of a column tile: tiles, and blocks */
    int64_t stride;
    float *c;
    int64_t ldc;
} bf12_product;

static inline const char *bf12_block_at(const bf12_product *p, int number) {
    return p->weight + number / p->parts * TILE_STREAMS * p->stride + number % p->parts * BF12_BYTES;
}

/* Bytes between the end of a block and the one that follows it. */
static inline int64_t bf12_jump(const bf12_product *p, int number) {
    return number % p->parts + 1 < p->parts ? 0 : (TILE_STREAMS - 1) * p->stride;
}

static inline int bf12_count(const bf12_product *p, int number) {
    int left = p->k_tiles - number % p->parts * BF12_TILES;
    return left < BF12_TILES ? left : BF12_TILES;
}

/* Where the rows and the sums of a block begin. */
static inline const ellm_bf16 *bf12_a(const bf12_product *p, int number) {
    return p->a + number % p->parts * BF12_TILES * ELLM_TILE_K;
}

static inline float *bf12_c(const bf12_product *p, int number) {
    return p->c + number / p->parts * TILE_STREAMS * ELLM_TILE_N;
}

/* C[rows][ELLM_TILE_N * n_tiles] = A[rows][ELLM_TILE_K * k_tiles] . W, n_tiles a multiple of TILE_STREAMS; `tiles` is
 * ELLM_EXPAND bytes. */
static inline void matmul_bf12(const ellm_bf16 *a, int64_t lda, int rows, const char *weight, int n_tiles, int k_tiles,
                               float *c, int64_t ldc, ellm_bf16 *tiles) {
    if (fetch_near && rows <= TILE_TALL) return bf12_in_order(a, lda, rows, weight, n_tiles, k_tiles, c, ldc);
    int parts = (k_tiles + BF12_TILES - 1) / BF12_TILES, blocks = n_tiles / TILE_STREAMS * parts;
    bf12_product p = {a, lda, rows, weight, k_tiles, parts, column_bytes(ELLM_BF12, k_tiles), c, ldc};
    bf12_part part = {weight, p.stride, tiles};
    if (blocks && rows > BF12_FEW) bf12_expand(part);
    for (int i = 0; i < blocks; i++) {
        const ellm_bf16 *x = bf12_a(&p, i), *expanded = part.out;
        int count = bf12_count(&p, i), again = i % parts > 0;
        if (rows <= BF12_FEW) {
            part.block = bf12_block_at(&p, i);
            bf12_expand_and_multiply(x, lda, rows, part, count, bf12_c(&p, i), ldc, again, bf12_jump(&p, i));
        } else {
            int next = i + 1 < blocks ? i + 1 : i;
            part.block = bf12_block_at(&p, next);
            part.out = tiles + (i + 1) % 2 * TILE_STREAMS * BF12_BLOCK;
            bf12_many_rows(x, lda, rows, expanded, count, bf12_c(&p, i), ldc, again, part, BF12_BYTES + bf12_jump(&p, next));
        }
    }
}

#endif
