/* Loops that do nothing but read, or nothing but multiply: the limits that the kernels are measured against. */
#ifndef ELLM_PROBE_H
#define ELLM_PROBE_H
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include "vector.h"

typedef uint64_t probe_lanes __attribute__((vector_size(64), aligned(64)));

/* Reads `streams` (a constant where this is inlined) equal parts of [memory, memory + bytes) side by side. */
__attribute__((always_inline)) static inline uint64_t probe_streams(const char *memory, int64_t bytes,
                                                                    const int streams, int64_t ahead) {
    int64_t part = bytes / streams;
    probe_lanes sum[8][2] = {0};
    for (int64_t i = 0; i < part; i += 128)
#pragma GCC unroll 8
        for (int s = 0; s < streams; s++) {
            const char *line = memory + s * part + i;
            if (ahead) {
                __builtin_prefetch(line + ahead);
                __builtin_prefetch(line + ahead + 64);
            }
            sum[s][0] ^= *(const probe_lanes *)line;
            sum[s][1] ^= *(const probe_lanes *)(line + 64);
        }
    for (int s = 1; s < streams; s++) sum[0][0] ^= sum[s][0] ^ sum[s][1];
    sum[0][0] ^= sum[0][1];
    uint64_t any = 0;
    for (int lane = 0; lane < 8; lane++) any ^= sum[0][0][lane];
    return any;
}

#ifdef __AMX_TILE__
/* The same by tile loads: one KiB of each stream in turn. */
__attribute__((always_inline)) static inline void probe_tiles(const char *memory, int64_t bytes, const int streams,
                                                              int64_t ahead) {
    int64_t part = bytes / streams;
    for (int64_t i = 0; i < part; i += 1024)
#pragma GCC unroll 8
        for (int s = 0; s < streams; s++) {
            const char *tile = memory + s * part + i;
            if (ahead)
                for (int line = 0; line < 1024; line += 64) __builtin_prefetch(tile + ahead + line);
            _tile_loadd(0, tile, 64);
        }
}
#endif

/* Returns something that depends on every byte, or 0 for tile loads, which a compiler cannot drop. */
static inline uint64_t probe_read_loop(const char *memory, int64_t bytes, int64_t streams, int64_t ahead,
                                       int64_t tiles) {
#ifdef __AMX_TILE__
    if (tiles) {
        if (streams == 1) probe_tiles(memory, bytes, 1, ahead);
        if (streams == 4) probe_tiles(memory, bytes, 4, ahead);
        if (streams == 8) probe_tiles(memory, bytes, 8, ahead);
        return 0;
    }
#endif
    (void)tiles;
    if (streams == 1) return probe_streams(memory, bytes, 1, ahead);
    if (streams == 4) return probe_streams(memory, bytes, 4, ahead);
    return probe_streams(memory, bytes, 8, ahead);
}

/* ELLM_PROBE_FLOPS operations, `repeats` times. `memory` is 4 KiB, 64-byte aligned, of any finite bf16 values; every
 * variant has as many independent sums as its unit's latency needs. */
#if defined(__AMX_BF16__)
static inline float probe_matmul_loop(char *memory, int64_t repeats) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t i = 0; i < repeats * (ELLM_PROBE_FLOPS / (4 * 2 * 16 * 16 * 32)); i++) {
        _tile_loadd(4, memory, 64);
        _tile_loadd(5, memory + 1024, 64);
        _tile_loadd(6, memory + 2048, 64);
        _tile_loadd(7, memory + 3072, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, memory, 64);
    return *(float *)memory;
}
#else
#if defined(__AVX512BF16__)
#define PROBE_SUMS 24
#define PROBE_LANES 32 /* products in one instruction */
typedef __m512 probe_sum;
static inline probe_sum probe_set(float x) { return _mm512_set1_ps(x); }
static inline probe_sum probe_step(probe_sum sum, const char *memory) {
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_load_si512(memory), (__m512bh)_mm512_load_si512(memory + 64));
}
#elif defined(__AVX512F__)
#define PROBE_SUMS 12
#define PROBE_LANES 16
typedef __m512 probe_sum;
static inline probe_sum probe_set(float x) { return _mm512_set1_ps(x); }
static inline probe_sum probe_step(probe_sum sum, const char *memory) {
    return _mm512_fmadd_ps(_mm512_load_ps(memory), _mm512_load_ps(memory + 64), sum);
}
#elif defined(__FMA__)
#define PROBE_SUMS 12
#define PROBE_LANES 8
typedef __m256 probe_sum;
static inline probe_sum probe_set(float x) { return _mm256_set1_ps(x); }
static inline probe_sum probe_step(probe_sum sum, const char *memory) {
    return _mm256_fmadd_ps(_mm256_load_ps((const float *)memory), _mm256_load_ps((const float *)(memory + 64)), sum);
}
#else
#define PROBE_SUMS 12
#define PROBE_LANES 4
typedef float probe_sum __attribute__((vector_size(16)));
static inline probe_sum probe_set(float x) { return (probe_sum){x, x, x, x}; }
static inline probe_sum probe_step(probe_sum sum, const char *memory) {
    return sum * *(const probe_sum *)memory + *(const probe_sum *)(memory + 64);
}
#endif
static inline float probe_matmul_loop(char *memory, int64_t repeats) {
    probe_sum sum[PROBE_SUMS];
#pragma GCC unroll 24
    for (int s = 0; s < PROBE_SUMS; s++) sum[s] = probe_set((float)s);
    for (int64_t i = 0; i < repeats * (ELLM_PROBE_FLOPS / (2 * PROBE_LANES * PROBE_SUMS)); i++)
#pragma GCC unroll 24
        for (int s = 0; s < PROBE_SUMS; s++) sum[s] = probe_step(sum[s], memory);
    for (int s = 1; s < PROBE_SUMS; s++) sum[0] += sum[s];
    return sum[0][0];
}
#endif

#endif
