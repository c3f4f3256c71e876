"""Packing weights into tiles: the layout of task.h, [n_tiles][k_tiles] tiles of 32 k x 16 columns in pairs of k."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uintptr_t

import numpy as np

from ellm.kernels.task cimport ELLM_TILE
from ellm.kernels.vector cimport vector_to_bf16


def pack_tiles(const uint16_t[:, ::1] rows, uintptr_t address, int64_t first_column, int64_t k, int64_t k_tiles):
    """Write rows of a weight, bf16 bits [n, k], as columns of the packed weight at `address`, from first_column on.

    Only the pairs of k of these columns are written, an odd k followed by a zero: other padding is left as it is (zero
    in fresh memory). Releases the GIL. Raises ValueError if the rows are not [n, k] or k does not fit k_tiles.
    """
    if rows.shape[1] != k or k > 32 * k_tiles or first_column < 0:
        shape = f"[{rows.shape[0]}, {rows.shape[1]}]"
        raise ValueError(f"rows {shape} at column {first_column} do not fit k = {k} in {k_tiles} tiles")
    cdef int64_t row = 0, column, count
    cdef uint32_t *out
    if k == 0:
        return
    with nogil:
        while row < rows.shape[0]:
            column = first_column + row
            count = min(16 - column % 16, rows.shape[0] - row)
            out = <uint32_t *> address + column // 16 * k_tiles * (ELLM_TILE // 2) + column % 16
            _pack_columns(&rows[row, 0], count, k, out)
            row += count


# Up to 16 columns of one column tile; a pair of k is one 32-bit word, 16 words a row of the tile.
cdef void _pack_columns(const uint16_t *rows, int64_t count, int64_t k, uint32_t *out) noexcept nogil:
    cdef int64_t pair, column
    cdef const uint16_t *two
    for pair in range(k // 2):
        for column in range(count):
            two = rows + column * k + 2 * pair
            out[16 * pair + column] = two[0] | <uint32_t> two[1] << 16
    if k % 2:
        for column in range(count):
            out[16 * (k // 2) + column] = rows[column * k + k - 1]


def to_bf16(x):
    """bf16 bits (uint16, same shape) of a float32 array, rounded to nearest even; NaN stays NaN."""
    cdef const float[::1] source = np.ascontiguousarray(x, np.float32).reshape(-1)
    out = np.empty(np.shape(x), np.uint16)
    cdef uint16_t[::1] target = out.reshape(-1)
    cdef int64_t n = source.shape[0]
    if n:
        with nogil:
            vector_to_bf16(&source[0], &target[0], n)
    return out
