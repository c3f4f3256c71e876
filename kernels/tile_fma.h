/* Tile products by FMA, of AVX2 or AVX-512, after widening bf16 or int8 to f32: blocks of rows x column tiles whose sums stay in
 * registers. */
#ifndef ELLM_TILE_H
#define ELLM_TILE_H
#include <immintrin.h>

#include "fetch.h"
#include "vector.h"

#ifdef __AVX512F__
#define TILE_VECTORS 1 /* of the sums of a row and a column tile */
#define TILE_ROWS 6    /* most rows of a block: 12 sums */
#define TILE_FEW 3     /* most rows of a block of TILE_WIDE column tiles; of more rows, of half of them */
typedef __m512 tile_vector;
static inline tile_vector tile_zeros(void) { return _mm512_setzero_ps(); }
static inline tile_vector tile_load(const float *c) { return _mm512_loadu_ps(c); }
static inline void tile_store(float *c, tile_vector sum) { _mm512_storeu_ps(c, sum); }
static inline tile_vector tile_add(float x, tile_vector b, tile_vector sum) { return _mm512_fmadd_ps(_mm512_set1_ps(x), b, sum); }
/* The even or odd k of a line's columns, of bf16 or of int8 codes. */
static inline tile_vector tile_widen_bf16(const char *line, int odd) {
    __m512i pairs = _mm512_loadu_si512(line);
    return (__m512)(odd ? _mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)) : _mm512_slli_epi32(pairs, 16));
}
static inline tile_vector tile_widen_codes(const char *line, int odd) {
    __m512i pairs = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)line));
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(odd ? pairs : _mm512_slli_epi32(pairs, 16), 16));
}
#else
#define TILE_VECTORS 2
#define TILE_ROWS 6
#define TILE_FEW 2
typedef __m256 tile_vector;
static inline tile_vector tile_zeros(void) { return _mm256_setzero_ps(); }
static inline tile_vector tile_load(const float *c) { return _mm256_loadu_ps(c); }
static inline void tile_store(float *c, tile_vector sum) { _mm256_storeu_ps(c, sum); }
static inline tile_vector tile_add(float x, tile_vector b, tile_vector sum) { return _mm256_fmadd_ps(_mm256_set1_ps(x), b, sum); }
static inline tile_vector tile_widen_bf16(const char *line, int odd) {
    __m256i pairs = _mm256_loadu_si256((const __m256i *)line);
    if (odd) pairs = _mm256_srli_epi32(pairs, 16); /* a mask would take the register that 12 sums leave for A */
    return (__m256)_mm256_slli_epi32(pairs, 16);
}
static inline tile_vector tile_widen_codes(const char *line, int odd) {
    __m256i pairs = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)line));
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(odd ? pairs : _mm256_slli_epi32(pairs, 16), 16));
}
#endif

#define TILE_LANES (ELLM_TILE_N / TILE_VECTORS)
#define TILE_WIDE (4 / TILE_VECTORS)
#define TILE_K_BLOCK 4 /* k tiles in a part: A of a block of rows, widened, and B of 4 column tiles stay in L1 */

static inline void tile_enter(void) {}
static inline void tile_leave(void) {}

/* Elements are W bytes: codes or bf16. W is a constant where this is inlined. */
__attribute__((always_inline)) static inline tile_vector tile_widen(const int W, const char *line, int odd) {
    return W == 1 ? tile_widen_codes(line, odd) : tile_widen_bf16(line, odd);
}

/* One block of R rows and T column tiles over k_tiles; x is A in f32, ELLM_TILE_K * TILE_K_BLOCK apart. Elements of B are W
 * bytes, and b_n and b_k are in bytes. If F, the tiles at ahead (laid out as b) are fetched line by line. W, R, T and F are
 * constants where this is inlined. */
__attribute__((always_inline)) static inline void tile_block(
    const int W, const int R, const int T, const int F, const float (*x)[ELLM_TILE_K * TILE_K_BLOCK], const char *b,
    int64_t b_n, int64_t b_k, int k_tiles, float *c, int64_t ldc, int accumulate, const char *ahead) {
    tile_vector sum[TILE_ROWS][TILE_WIDE * TILE_VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int v = 0; v < T * TILE_VECTORS; v++)
            sum[r][v] = accumulate ? tile_load(c + r * ldc + TILE_LANES * v) : tile_zeros();
    for (int k = 0; k < k_tiles; k++) {
        for (int pair = 0; pair < ELLM_TILE_PAIRS; pair++) {
#pragma GCC unroll 4
            for (int t = 0; t < T; t++) {
                int64_t at = t * b_n + k * b_k + W * ELLM_TILE_ROW * pair;
                if (F) fetch_line(ahead + at);
#pragma GCC unroll 2
                for (int odd = 0; odd < 2; odd++) {
                    tile_vector column[TILE_VECTORS];
#pragma GCC unroll 2
                    for (int v = 0; v < TILE_VECTORS; v++) column[v] = tile_widen(W, b + at + 2 * W * TILE_LANES * v, odd);
#pragma GCC unroll 8
                    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
                        for (int v = 0; v < TILE_VECTORS; v++)
                            sum[r][TILE_VECTORS * t + v] =
                                tile_add(x[r][ELLM_TILE_K * k + 2 * pair + odd], column[v], sum[r][TILE_VECTORS * t + v]);
                }
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int v = 0; v < T * TILE_VECTORS; v++) tile_store(c + r * ldc + TILE_LANES * v, sum[r][v]);
}

/* As tile_block, for `rows` or TILE_ROWS rows, whichever is less. */
__attribute__((always_inline)) static inline void tile_rows(
    const int W, const int T, const int F, const float (*x)[ELLM_TILE_K * TILE_K_BLOCK], int rows, const char *b, int64_t b_n,
    int64_t b_k, int k_tiles, float *c, int64_t ldc, int accumulate, const char *ahead) {
    const int less = T < TILE_WIDE ? T : TILE_WIDE / 2; /* of more than TILE_FEW rows */
    switch (rows) {
    case 1: return tile_block(W, 1, T, F, x, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    case 2: return tile_block(W, 2, T, F, x, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    case 3: return tile_block(W, 3, T, F, x, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    case 4: return tile_block(W, 4, less, F, x, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    case 5: return tile_block(W, 5, less, F, x, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    default: return tile_block(W, TILE_ROWS, less, F, x, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    }
}

/* A block of rows over all column tiles. */
__attribute__((always_inline)) static inline void tile_columns(
    const int W, const int F, const float (*x)[ELLM_TILE_K * TILE_K_BLOCK], int rows, const char *b, int64_t b_n, int64_t b_k,
    int n_tiles, int k_tiles, float *c, int64_t ldc, int accumulate, const char *ahead) {
    int n = 0;
#define TILE_COLUMNS(T)                                                                                                  \
    for (; n + (T) <= n_tiles; n += (T))                                                                                 \
        tile_rows(W, T, F, x, rows, b + n * b_n, b_n, b_k, k_tiles, c + ELLM_TILE_N * n, ldc, accumulate, ahead + n * b_n);
    if (rows <= TILE_FEW) TILE_COLUMNS(TILE_WIDE)
    if (TILE_WIDE > 2) TILE_COLUMNS(2)
    TILE_COLUMNS(1)
#undef TILE_COLUMNS
}

/* Both products below; at `after` is what is read after B. */
__attribute__((always_inline)) static inline void tile_multiply(
    const int W, const ellm_bf16 *a, int64_t lda, int rows, const char *b, int64_t b_n, int64_t b_k, int n_tiles, int k_tiles,
    float *c, int64_t ldc, int accumulate, const char *after) {
    for (int k = 0; k < k_tiles; k += TILE_K_BLOCK) {
        int count = k_tiles - k < TILE_K_BLOCK ? k_tiles - k : TILE_K_BLOCK, next = k + TILE_K_BLOCK;
        const char *part = b + k * b_k, *ahead = next < k_tiles ? b + next * b_k : after;
        for (int row = 0; row < rows; row += TILE_ROWS) {
            float x[TILE_ROWS][ELLM_TILE_K * TILE_K_BLOCK], *out = c + row * ldc;
            int left = rows - row, again = accumulate || k;
            for (int r = 0; r < TILE_ROWS && r < left; r++)
                vector_from_bf16(a + (row + r) * lda + ELLM_TILE_K * k, x[r], ELLM_TILE_K * count);
            if (row == 0)
                tile_columns(W, 1, x, left, part, b_n, b_k, n_tiles, count, out, ldc, again, ahead);
            else
                tile_columns(W, 0, x, left, part, b_n, b_k, n_tiles, count, out, ldc, again, ahead);
        }
    }
}

/* C[rows][ELLM_TILE_N * n_tiles] (= or +=) A[rows][ELLM_TILE_K * k_tiles] . B; tile (n, k) of B is at b + n * b_n + k *
 * b_k, in elements. Every element of C is one chain over ascending k, so it does not depend on what else is computed. k
 * is cut in parts whose sums go through C; while the first rows use a part of B, the next part is fetched. */
static inline void tile_matmul(const ellm_bf16 *a, int64_t lda, int rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                               int n_tiles, int k_tiles, float *c, int64_t ldc, int accumulate) {
    tile_multiply(2, a, lda, rows, (const char *)b, 2 * b_n, 2 * b_k, n_tiles, k_tiles, c, ldc, accumulate,
                  (const char *)(b + n_tiles * b_n));
}

/* The same of B in int8 codes. At `next` is what is read after it. */
static inline void tile_codes(const ellm_bf16 *a, int64_t lda, int rows, const char *b, int64_t b_n, int64_t b_k, int n_tiles,
                              int k_tiles, float *c, int64_t ldc, const char *next) {
    tile_multiply(1, a, lda, rows, b, b_n, b_k, n_tiles, k_tiles, c, ldc, 0, next);
}

#define tile_from_memory(a, lda, rows, b, b_n, b_k, n_tiles, k_tiles, c, ldc, accumulate, next) \
    tile_matmul(a, lda, rows, b, b_n, b_k, n_tiles, k_tiles, c, ldc, accumulate)

#endif
