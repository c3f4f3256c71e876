/* integer.h by AMX: many rows of activations of 16 bits, their digits as signed bytes.
 *
 * A product of tiles takes 16 cycles, however few k it has. Units of nested formats are deep enough: their weights are
 * two digits too, so four products of 64 k each, whose sums stay in tiles for a unit. Of plain formats a tile of 32 k is
 * scaled before the next is added; a row of A is both digits of it, low ones first, which meet [w | 0] and [0 | w].
 * Vectors scale what was made behind the instructions that multiply what is next: tiles leave them one port's multiplier.
 */
#ifndef ELLM_INTEGER_AMX_H
#define ELLM_INTEGER_AMX_H

#define INTEGER_TILE 1024 /* bytes */
#define INTEGER_M 16      /* rows of a tile */
#define INTEGER_SPAN 4    /* rows that vectors scale at a time */
#define INTEGER_COLUMNS 2 /* column tiles at a time: they stay in L1, beside A and what is made of them */
#define INTEGER_DEEP (ACTIVATION_TILES / 2) /* tiles of 64 k of a unit */

/* Whether tiles multiply so many rows: whole tiles of them are read and written then. */
static inline int integer_tiled(int rows, int bytes) { return rows > ACTIVATION_FEW && !bytes; }

static inline void integer_barrier(void) { __asm__ volatile("" ::: "memory"); } /* gcc's tile loads do not say that they read */

/* A unit of a column tile of a nested format. */
typedef struct integer_nested {
    char low[INTEGER_DEEP][INTEGER_TILE], high[INTEGER_DEEP][INTEGER_TILE]; /* low digits are unsigned */
    float scale[ELLM_TILE_N], minimum[ELLM_TILE_N];
    int32_t halves[2 * ACTIVATION_TILES][ELLM_TILE_N];
} integer_nested;

/* What tiles made of a row tile and a unit of a column tile, and where it goes. */
typedef struct integer_made {
    const int32_t *products; /* [low low, low high, high low, high high][INTEGER_M][ELLM_TILE_N], of activations first */
    const integer_nested *column;
    const activation_side *sides;
    int64_t lda, ldc;
    float *c;
} integer_made;

/* What is so of all row tiles. */
typedef struct integer_shape {
    int count, groups; /* tiles of the unit, groups of a tile */
    int minimums, accumulate;
} integer_shape;

BLOCKED void integer_digits(integer_nested *column, const char *block, int count, int64_t ahead, const ellm_format *f) {
    const int groups = ELLM_TILE_K / (int)f->group, steps = (int)f->group / 4;
    const __m512i lower = _mm512_set1_epi16(255);
    for (int tile = 0; tile < count; tile++) {
        const char *codes = block + f->header + tile * f->tile;
        char *low = column->low[tile / 2] + tile % 2 * (INTEGER_TILE / 2);
        char *high = column->high[tile / 2] + tile % 2 * (INTEGER_TILE / 2);
        block_prefetch(block, tile, ahead, f);
#pragma GCC unroll 2
        for (int group = 0; group < groups; group++) {
            __m512i factor = integer_factors(block, tile * groups + group, f);
            factor = _mm512_mask_blend_epi16(0xaaaaaaaa, factor, _mm512_slli_epi32(factor, 16));
#pragma GCC unroll 8
            for (int step = group * steps; step < (group + 1) * steps; step++) {
                __m512i worths = block_worths(block_codes(codes, step, f), f);
                __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(worths, 8), 8), odd = _mm512_srai_epi16(worths, 8);
                even = _mm512_mullo_epi16(even, factor);
                odd = _mm512_mullo_epi16(odd, factor);
                _mm512_store_si512(low + INTEGER_LINE * step,
                                   _mm512_ternarylogic_epi32(lower, even, _mm512_slli_epi16(odd, 8), 0xca));
                _mm512_store_si512(high + INTEGER_LINE * step,
                                   _mm512_ternarylogic_epi32(lower, _mm512_srli_epi16(even, 8), odd, 0xca));
            }
        }
        if (tile == count - 1 && tile % 2 == 0) {
            memset(low + INTEGER_TILE / 2, 0, INTEGER_TILE / 2);
            memset(high + INTEGER_TILE / 2, 0, INTEGER_TILE / 2);
        }
    }
    _mm512_store_ps(column->scale, integer_scales(block, 0, f));
    if (f->minimum < 0) return;
    _mm512_store_ps(column->minimum, integer_super_minimum(block, f));
    for (int group = 0; group < count * groups; group++)
        _mm512_store_si512(column->halves[group], integer_halves(block, group, f));
}

/* The sum in a tile of C, the one of that number at `made`, makes place for the next one. The CPU multiplies and stores tiles
 * in order: a store right behind the last product of its sum would have all products behind it wait for that one. */
#define INTEGER_NEXT(tile, made)                                       \
    _tile_stored(tile, (made) + (tile) * INTEGER_TILE, INTEGER_LINE); \
    _tile_zero(tile)

/* 64 k of a row tile and a column tile, the first of which take the place of what was made before. */
static inline void integer_deep(const char *cells, int64_t lda, const integer_nested *column, int k, char *before) {
    cells += 2 * ACTIVATION_CELL * k;
    _tile_loadd(4, cells, lda);
    _tile_loadd(6, column->low[k], INTEGER_LINE);
    if (k == 0) {
        INTEGER_NEXT(0, before);
    }
    _tile_dpbsud(0, 4, 6);
    _tile_loadd(7, column->high[k], INTEGER_LINE);
    if (k == 0) {
        INTEGER_NEXT(1, before);
    }
    _tile_dpbssd(1, 4, 7);
    _tile_loadd(5, cells + ACTIVATION_CELL, lda);
    if (k == 0) {
        INTEGER_NEXT(2, before);
    }
    _tile_dpbsud(2, 5, 6);
    if (k == 0) {
        INTEGER_NEXT(3, before);
    }
    _tile_dpbssd(3, 5, 7);
}

/* 256 x. Of the two ports of vectors, tiles leave one to products and shifts, and the other to shuffles. */
static inline __m512i integer_up(__m512i x) {
    return _mm512_shuffle_epi8(x, _mm512_set4_epi32(0x0e0d0cff, 0x0a0908ff, 0x060504ff, 0x020100ff));
}

/* M of INTEGER_SPAN rows. */
static inline void integer_span_least(const integer_made *made, const integer_shape *shape, const activation_side *side,
                                      __m512i least[INTEGER_SPAN]) {
    const int32_t *halves = made->column->halves[0];
#pragma GCC unroll 4
    for (int r = 0; r < INTEGER_SPAN; r++) least[r] = _mm512_setzero_si512();
    for (int tile = 0; tile < shape->count; tile++, side++)
        for (int group = 0; group < shape->groups; group++, halves += ELLM_TILE_N) {
            __m512i column = _mm512_load_si512(halves);
#pragma GCC unroll 4
            for (int r = 0; r < INTEGER_SPAN; r++)
                integer_dot_pairs(&least[r], column, _mm512_set1_epi32(integer_side(side, r * made->lda)->sums[group]));
        }
}

/* Scales rows [row, row + INTEGER_SPAN) of what was made. */
static __attribute__((noinline)) void integer_span(const integer_made *made, const integer_shape *shape, int row) {
    const __m512i *products = (const __m512i *)made->products + row;
    const activation_side *side = integer_side(made->sides, row * made->lda);
    __m512 scale = _mm512_load_ps(made->column->scale), minimum = _mm512_load_ps(made->column->minimum), sum[INTEGER_SPAN];
    float *c = made->c + row * made->ldc;
#pragma GCC unroll 4
    for (int r = 0; r < INTEGER_SPAN; r++) {
        __m512i dot = _mm512_add_epi32(products[INTEGER_M + r], products[2 * INTEGER_M + r]);
        dot = _mm512_add_epi32(dot, integer_up(products[3 * INTEGER_M + r]));
        dot = _mm512_add_epi32(products[r], integer_up(dot));
        sum[r] = shape->accumulate ? _mm512_loadu_ps(c + r * made->ldc) : _mm512_setzero_ps();
        sum[r] = integer_add(sum[r], dot, integer_both(scale, integer_side(side, r * made->lda)));
    }
    if (shape->minimums) {
        __m512i least[INTEGER_SPAN];
        integer_span_least(made, shape, side, least);
#pragma GCC unroll 4
        for (int r = 0; r < INTEGER_SPAN; r++)
            sum[r] = integer_add(sum[r], least[r], integer_both(minimum, integer_side(side, r * made->lda)));
    }
#pragma GCC unroll 4
    for (int r = 0; r < INTEGER_SPAN; r++) _mm512_storeu_ps(c + r * made->ldc, sum[r]);
}

/* All rows by a unit of some column tiles. Vectors scale what was made before; `products` has room for two times. */
static __attribute__((noinline)) void integer_multiply_nested(const integer_operand *x, const integer_nested *columns,
                                                              int n_tiles, const integer_shape *shape,
                                                              const integer_sums *sums, char *products) {
    const int deep = (shape->count + 1) / 2, steps = (x->rows + INTEGER_M - 1) / INTEGER_M * n_tiles;
    integer_made made[2];
    integer_barrier();
    for (int step = 0, n = 0, row = 0; step <= steps; step++) {
        char *out = products + step % 2 * 4 * INTEGER_TILE, *before = products + (1 - step % 2) * 4 * INTEGER_TILE;
        int done = step ? 0 : INTEGER_M;
        if (step < steps) {
            const char *cells = x->cells + row * x->lda;
            made[step % 2] = (integer_made){(int32_t *)out, columns + n, integer_side(x->sides, row * x->lda), x->lda,
                                            sums->ldc, sums->c + row * sums->ldc + ELLM_TILE_N * n};
            for (int k = 0; k < deep; k++) {
                integer_deep(cells, x->lda, columns + n, k, before);
                if (k && done < INTEGER_M) integer_span(&made[1 - step % 2], shape, done), done += INTEGER_SPAN;
            }
            if (++n == n_tiles) n = 0, row += INTEGER_M;
        } else {
            INTEGER_NEXT(0, before);
            INTEGER_NEXT(1, before);
            INTEGER_NEXT(2, before);
            INTEGER_NEXT(3, before);
        }
        for (; done < INTEGER_M; done += INTEGER_SPAN) integer_span(&made[1 - step % 2], shape, done);
    }
}

BLOCKED void integer_tiles_nested(integer_operand x, integer_columns w, integer_sums sums, char *scratch,
                                  const ellm_format *f) {
    integer_nested *columns = (integer_nested *)scratch;
    integer_shape shape = {w.count, ELLM_TILE_K / (int)f->group, f->minimum >= 0, sums.accumulate};
    for (int n = 0; n < w.n_tiles; n++) integer_digits(columns + n, w.block + n * w.stride, w.count, w.ahead, f);
    integer_multiply_nested(&x, columns, w.n_tiles, &shape, &sums, (char *)(columns + INTEGER_COLUMNS));
}

/* A part of a column tile of a plain format. */
typedef struct integer_plain {
    char tiles[2 * INTEGER_DEPTH + 1][INTEGER_TILE / 2]; /* each behind zeros, and zeros behind the last one */
    float scale[INTEGER_DEPTH][ELLM_TILE_N], minimum[INTEGER_DEPTH][2][ELLM_TILE_N];
} integer_plain;

BLOCKED void integer_worths(integer_plain *column, integer_columns w, const char *block, const ellm_format *f) {
    const int groups = ELLM_TILE_K / (int)f->group;
    memset(column->tiles[0], 0, INTEGER_TILE / 2);
    for (int tile = 0; tile < w.count; tile++) {
        const char *codes = block + f->header + (w.first + tile) * f->tile;
        block_prefetch(block, w.first + tile, w.ahead, f);
#pragma GCC unroll 8
        for (int step = 0; step < ELLM_TILE_K / 4; step++)
            _mm512_store_si512(column->tiles[2 * tile + 1] + INTEGER_LINE * step, block_worths(block_codes(codes, step, f), f));
        memset(column->tiles[2 * tile + 2], 0, INTEGER_TILE / 2);
        _mm512_store_ps(column->scale[tile], integer_scales(block, w.first + tile, f));
        for (int group = 0; f->minimum >= 0 && group < groups; group++)
            _mm512_store_ps(column->minimum[tile][group],
                            block_numbers(block, f->minimum, f->super_minimum, (w.first + tile) * groups + group, f));
    }
}

/* The tile of k that is multiplied next, column tile after column tile, and row tile after row tile. */
typedef struct integer_next {
    const char *cells; /* of its row tile */
    int rows;          /* that are left */
    int n, tile;
    int number; /* tiles before it */
} integer_next;

/* Both digits of a tile of k of a row tile and a column tile, tiles 0 and 1 or 2 and 3 of C, as `odd`, a constant, says. They
 * take the place of those of two tiles before. Behind the last row, of which `products` lacks two tiles, what is loaded is
 * multiplied again. */
BLOCKED void integer_shallow(const int odd, const integer_next *next, int64_t lda, const integer_plain *column, char *products) {
    if (next->rows > 0) {
        _tile_loadd(4, next->cells + ACTIVATION_CELL * next->tile, lda);
        _tile_loadd(5, column->tiles[2 * next->tile + 1], INTEGER_LINE);
        _tile_loadd(6, column->tiles[2 * next->tile], INTEGER_LINE);
    }
    if (odd) {
        INTEGER_NEXT(2, products);
        _tile_dpbssd(2, 4, 5);
        INTEGER_NEXT(3, products);
        _tile_dpbssd(3, 4, 6);
    } else {
        INTEGER_NEXT(0, products);
        _tile_dpbssd(0, 4, 5);
        INTEGER_NEXT(1, products);
        _tile_dpbssd(1, 4, 6);
    }
}

/* Multiplies the next tile. */
BLOCKED void integer_make(integer_next *next, const integer_operand *x, const integer_plain *columns, int n_tiles, int count,
                          char *products) {
    if (next->number++ % 2)
        integer_shallow(1, next, x->lda, columns + next->n, products);
    else
        integer_shallow(0, next, x->lda, columns + next->n, products);
    if (++next->tile < count) return;
    next->tile = 0;
    if (++next->n < n_tiles) return;
    next->n = 0;
    next->rows -= INTEGER_M;
    next->cells += INTEGER_M * x->lda;
}

/* Adds a tile of k to a row tile of C. */
BLOCKED void integer_scale_tile(const int minimums, const activation_side *side, int64_t lda, const integer_plain *column,
                                int tile, const char *products, __m512 sums[INTEGER_M]) {
    const __m512i *low = (const __m512i *)products, *high = low + INTEGER_M;
    __m512 scale = _mm512_load_ps(column->scale[tile]);
#pragma GCC unroll 16
    for (int r = 0; r < INTEGER_M; r++, side = integer_side(side, lda)) {
        __m512i dot = _mm512_add_epi32(integer_up(high[r]), low[r]);
        sums[r] = integer_add(sums[r], dot, integer_both(scale, side));
#pragma GCC unroll 2
        for (int group = 0; group < minimums; group++)
            sums[r] = integer_add_minimum(sums[r], _mm512_load_ps(column->minimum[tile][group]), side->sums[group]);
    }
}

/* All rows by a part of some column tiles. Vectors scale a tile while the third one behind it is multiplied, as the second one
 * took its place; `products` has room for two. */
BLOCKED void integer_multiply_plain(const int minimums, integer_operand x, const integer_plain *columns, int n_tiles, int count,
                                    integer_sums sums, char *products) {
    integer_next next = {x.cells, x.rows, 0, 0, 0};
    integer_barrier();
    for (int ahead = 1; ahead <= 3; ahead++) integer_make(&next, &x, columns, n_tiles, count, products);
    for (int row = 0; row < x.rows; row += INTEGER_M)
        for (int n = 0; n < n_tiles; n++) {
            float *c = sums.c + row * sums.ldc + ELLM_TILE_N * n;
            __m512 sum[INTEGER_M];
#pragma GCC unroll 16
            for (int r = 0; r < INTEGER_M; r++)
                sum[r] = sums.accumulate ? _mm512_loadu_ps(c + r * sums.ldc) : _mm512_setzero_ps();
#pragma GCC unroll 1
            for (int tile = 0; tile < count; tile++) {
                integer_make(&next, &x, columns, n_tiles, count, products);
                integer_scale_tile(minimums, integer_side(x.sides + tile, row * x.lda), x.lda, columns + n, tile,
                                   products + next.number % 2 * 2 * INTEGER_TILE, sum);
            }
#pragma GCC unroll 16
            for (int r = 0; r < INTEGER_M; r++) _mm512_storeu_ps(c + r * sums.ldc, sum[r]);
        }
}

static __attribute__((noinline)) void integer_multiply_parts(int minimums, integer_operand x, const integer_plain *columns,
                                                             int n_tiles, int count, integer_sums sums, char *products) {
    if (minimums == 0)
        integer_multiply_plain(0, x, columns, n_tiles, count, sums, products);
    else
        integer_multiply_plain(1, x, columns, n_tiles, count, sums, products);
}

/* A part of rows that tiles multiply. */
BLOCKED void integer_tiles(integer_operand x, integer_columns w, integer_sums sums, char *scratch, const ellm_format *f) {
    if (f->nested) {
        integer_tiles_nested(x, w, sums, scratch, f);
        return;
    }
    integer_plain *columns = (integer_plain *)scratch;
    for (int n = 0; n < w.n_tiles; n++) integer_worths(columns + n, w, w.block + n * w.stride, f);
    integer_multiply_parts(f->minimum >= 0 ? ELLM_TILE_K / (int)f->group : 0, x, columns, w.n_tiles, w.count, sums,
                           (char *)(columns + INTEGER_COLUMNS));
}

#endif
