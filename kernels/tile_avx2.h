/* Tile products by FMA, after widening bf16 to f32: blocks of rows x column tiles whose sums stay in registers. */
#ifndef ELLM_TILE_H
#define ELLM_TILE_H
#include <immintrin.h>

#include "vector.h"

#define TILE_ROWS 6    /* most rows of a block: 6 x 2 sums, 2 registers of B and one of A */
#define TILE_K_BLOCK 4 /* k tiles in a part: A of a block of rows, widened, and B of 4 column tiles stay in L1 */

static inline void tile_enter(void) {}
static inline void tile_leave(void) {}

/* One block of R rows and T column tiles over k_tiles; x is A in f32, ELLM_TILE_K * TILE_K_BLOCK apart. If F, the tiles
 * at ahead (laid out as b) are fetched line by line. R, T and F are constants where this is inlined. */
__attribute__((always_inline)) static inline void tile_block(
    const int R, const int T, const int F, const float (*x)[ELLM_TILE_K * TILE_K_BLOCK], const ellm_bf16 *b, int64_t b_n,
    int64_t b_k, int k_tiles, float *c, int64_t ldc, int accumulate, const ellm_bf16 *ahead) {
    const __m256i upper = _mm256_set1_epi32((int)0xffff0000);
    __m256 sum[TILE_ROWS][4];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int h = 0; h < 2 * T; h++)
            sum[r][h] = accumulate ? _mm256_loadu_ps(c + r * ldc + 8 * h) : _mm256_setzero_ps();
    for (int k = 0; k < k_tiles; k++) {
        for (int pair = 0; pair < ELLM_TILE_PAIRS; pair++) {
#pragma GCC unroll 2
            for (int t = 0; t < T; t++) {
                const ellm_bf16 *line = b + t * b_n + k * b_k + ELLM_TILE_ROW * pair;
                if (F) _mm_prefetch((const char *)(ahead + t * b_n + k * b_k + ELLM_TILE_ROW * pair), _MM_HINT_T0);
#pragma GCC unroll 2
                for (int odd = 0; odd < 2; odd++) {
                    __m256i left = _mm256_loadu_si256((const __m256i *)line);
                    __m256i right = _mm256_loadu_si256((const __m256i *)line + 1);
                    left = odd ? _mm256_and_si256(left, upper) : _mm256_slli_epi32(left, 16);
                    right = odd ? _mm256_and_si256(right, upper) : _mm256_slli_epi32(right, 16);
#pragma GCC unroll 8
                    for (int r = 0; r < R; r++) {
                        __m256 row = _mm256_broadcast_ss(&x[r][ELLM_TILE_K * k + 2 * pair + odd]);
                        sum[r][2 * t] = _mm256_fmadd_ps(row, _mm256_castsi256_ps(left), sum[r][2 * t]);
                        sum[r][2 * t + 1] = _mm256_fmadd_ps(row, _mm256_castsi256_ps(right), sum[r][2 * t + 1]);
                    }
                }
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int h = 0; h < 2 * T; h++) _mm256_storeu_ps(c + r * ldc + 8 * h, sum[r][h]);
}

/* As tile_block, for `rows` or TILE_ROWS rows, whichever is less; T is 1 if they are more than 3. */
__attribute__((always_inline)) static inline void tile_rows(
    const int T, const int F, const float (*x)[ELLM_TILE_K * TILE_K_BLOCK], int rows, const ellm_bf16 *b, int64_t b_n,
    int64_t b_k, int k_tiles, float *c, int64_t ldc, int accumulate, const ellm_bf16 *ahead) {
    switch (rows) {
    case 1: return tile_block(1, T, F, x, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    case 2: return tile_block(2, T, F, x, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    case 3: return tile_block(3, T, F, x, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    case 4: return tile_block(4, 1, F, x, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    case 5: return tile_block(5, 1, F, x, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    default: return tile_block(6, 1, F, x, b, b_n, b_k, k_tiles, c, ldc, accumulate, ahead);
    }
}

/* C[rows][ELLM_TILE_N * n_tiles] (= or +=) A[rows][ELLM_TILE_K * k_tiles] . B; tile (n, k) of B is at b + n * b_n + k *
 * b_k, in elements. Every element of C is one chain over ascending k, so it does not depend on what else is computed. k
 * is cut in parts whose sums go through C; while the first rows use a part of B, the next part is fetched. */
static inline void tile_matmul(const ellm_bf16 *a, int64_t lda, int rows, const ellm_bf16 *b, int64_t b_n, int64_t b_k,
                               int n_tiles, int k_tiles, float *c, int64_t ldc, int accumulate) {
    for (int k = 0; k < k_tiles; k += TILE_K_BLOCK) {
        int count = k_tiles - k < TILE_K_BLOCK ? k_tiles - k : TILE_K_BLOCK, next = k + TILE_K_BLOCK;
        const ellm_bf16 *part = b + k * b_k, *ahead = next < k_tiles ? b + next * b_k : b + n_tiles * b_n;
        for (int row = 0; row < rows; row += TILE_ROWS) {
            float x[TILE_ROWS][ELLM_TILE_K * TILE_K_BLOCK], *out = c + row * ldc;
            int left = rows - row, again = accumulate || k, n = 0;
            for (int r = 0; r < TILE_ROWS && r < left; r++)
                vector_from_bf16(a + (row + r) * lda + ELLM_TILE_K * k, x[r], ELLM_TILE_K * count);
            for (; left <= 3 && n + 2 <= n_tiles; n += 2)
                tile_rows(2, 1, x, left, part + n * b_n, b_n, b_k, count, out + ELLM_TILE_N * n, ldc, again, ahead + n * b_n);
            for (; n < n_tiles && row == 0; n++)
                tile_rows(1, 1, x, left, part + n * b_n, b_n, b_k, count, out + ELLM_TILE_N * n, ldc, again, ahead + n * b_n);
            for (; n < n_tiles; n++)
                tile_rows(1, 0, x, left, part + n * b_n, b_n, b_k, count, out + ELLM_TILE_N * n, ldc, again, ahead);
        }
    }
}

#endif
