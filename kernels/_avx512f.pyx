"""The kernels, compiled for AVX-512 without its bf16 dot product: those of AVX2, but with tiles of 512 bits."""

from libc.stdint cimport int64_t, uint16_t

cdef extern from "tile_fma.h" nogil:
    void tile_enter()
    void tile_leave()
    void tile_matmul(const uint16_t *a, int64_t lda, int rows, const uint16_t *b, int64_t b_n, int64_t b_k,
                     int n_tiles, int k_tiles, float *c, int64_t ldc, int accumulate)

include "table.pxi"
