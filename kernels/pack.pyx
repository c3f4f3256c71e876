"""Packing weights into the column tiles of task.h: rows of a checkpoint tensor, as stored, become packed columns.

A pair of k of one column is a word: 4 bytes (bf16, f16), 2 (fp8) or 1 (mxfp4: low nibble = even k). A tile is 16 pairs
of 16 words. In fp8 and mxfp4 a header of scales stands before every four tiles. All functions release the GIL.

`runs` is int64 [n, 5]: source, first row, rows, first column, row step. Row first + i * step of a run becomes column
first column + i; the source is the caller's business.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uintptr_t
from libc.string cimport memcpy

import os

import numpy as np

from ellm.kernels.vector cimport vector_to_bf16

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int file, void *data, size_t size, int64_t offset)

ctypedef fused Word:
    uint32_t
    uint16_t
    uint8_t

ctypedef fused Scale:
    float
    uint8_t

cdef struct Layout:
    int64_t word          # bytes of a pair of k of one column
    int64_t tile          # bytes of a tile
    int64_t header        # bytes of scales before every four tiles
    int64_t column        # bytes of a column tile

_WORDS = {"bf16": 4, "f16": 4, "fp8": 2, "mxfp4": 1}


cdef Layout _layout(str format, int64_t k_tiles):
    cdef Layout layout
    layout.word = _WORDS[format]
    layout.tile = 256 * layout.word
    layout.header = 0 if layout.word == 4 else 64
    layout.column = k_tiles * layout.tile
    if layout.header:
        layout.column = (k_tiles + 3) // 4 * (layout.header + 4 * layout.tile)
    return layout


def pack_rows(
    const uint8_t[:, ::1] rows, int64_t first_row, const int64_t[:, ::1] runs, uintptr_t address, str format,
    int64_t k_tiles, int64_t first_tile=0,
):
    """Write source rows [first_row, first_row + n), given as bytes [n, bytes of k], to the packed weight at `address`.

    The rows' first k is that of tile `first_tile`. Only their pairs of k are written, an odd k followed by a zero:
    other padding is left as it is (zero in fresh memory). Rows that are in no run are left out, and runs may reach
    beyond these rows. Raises ValueError if the rows are longer than the tiles.
    """
    cdef Layout layout = _layout(format, k_tiles)
    cdef int64_t size = rows.shape[1], run, index, last, column, count
    cdef const uint8_t *source
    if first_tile < 0 or size > (k_tiles - first_tile) * 16 * layout.word:
        raise ValueError(f"rows of {size} bytes from tile {first_tile} on do not fit {k_tiles} tiles of {format}")
    if size == 0 or rows.shape[0] == 0:
        return
    with nogil:
        for run in range(runs.shape[0]):
            index, last = _clip(&runs[run, 0], first_row, first_row + rows.shape[0])
            while index < last:
                column = runs[run, 3] + index
                count = min(16 - column % 16, last - index)
                source = &rows[runs[run, 1] + index * runs[run, 4] - first_row, 0]
                _pack_columns(source, runs[run, 4] * size, count, size, first_tile, address, column, layout)
                index += count


def pack_scales(
    const Scale[:, :] scales, int64_t rows_per_scale, int64_t first_row, int64_t end_row, int64_t offset,
    const int64_t[:, ::1] runs, uintptr_t address, str format, int64_t k_tiles, int64_t first_scale=0,
):
    """Write the scales of source rows [first_row, end_row) to the headers of the packed weight at `address`.

    Row r has the scales scales[(r + offset) // rows_per_scale], one per 128 k (fp8, float32) or per 32 k (mxfp4,
    uint8), the first being that of packed scale `first_scale`. Raises ValueError if there are more than k_tiles need.
    """
    cdef Layout layout = _layout(format, k_tiles)
    cdef int64_t per_header = layout.header // (16 * sizeof(Scale)), block = layout.header + 4 * layout.tile
    cdef int64_t run, index, last, column, row, i, part, count = scales.shape[1]
    cdef Scale *out
    if (first_scale + count) * 4 > (k_tiles + 3) // 4 * 4 * per_header:
        raise ValueError(f"{count} scales from {first_scale} on do not fit {k_tiles} tiles of {format}")
    with nogil:
        for run in range(runs.shape[0]):
            index, last = _clip(&runs[run, 0], first_row, end_row)
            for index in range(index, last):
                column = runs[run, 3] + index
                row = (runs[run, 1] + index * runs[run, 4] + offset) // rows_per_scale
                out = <Scale *> (address + column // 16 * layout.column + first_scale // per_header * block)
                out += column % 16
                part = first_scale % per_header
                for i in range(count):
                    out[16 * part] = scales[row, i]
                    part += 1
                    if part == per_header:
                        part = 0
                        out += block // sizeof(Scale)


# The part [index, last) of a run whose source rows lie in [begin, end).
cdef inline (int64_t, int64_t) _clip(const int64_t *run, int64_t begin, int64_t end) noexcept nogil:
    cdef int64_t step = run[4]
    return (max(begin - run[1], 0) + step - 1) // step, min(run[2], (max(end - run[1], 0) + step - 1) // step)


# Up to 16 columns of one column tile, tile by tile, so that a cache line of a row is read once.
cdef void _pack_columns(
    const uint8_t *rows, int64_t stride, int64_t count, int64_t size, int64_t tile, uintptr_t address, int64_t column,
    Layout layout,
) noexcept nogil:
    cdef uintptr_t out = address + column // 16 * layout.column + column % 16 * layout.word
    cdef uintptr_t place
    cdef int64_t done = 0, part
    while done < size:
        part = min(size - done, 16 * layout.word)
        place = out + tile * layout.tile + (tile // 4 + 1) * layout.header
        if layout.word == 4:
            _pack_tile(rows + done, stride, count, part, <uint32_t *> place)
        elif layout.word == 2:
            _pack_tile(rows + done, stride, count, part, <uint16_t *> place)
        else:
            _pack_tile(rows + done, stride, count, part, <uint8_t *> place)
        done += part
        tile += 1


# Transposes words [count][pairs] into [pairs][16].
cdef void _pack_tile(const uint8_t *rows, int64_t stride, int64_t count, int64_t size, Word *out) noexcept nogil:
    cdef int64_t column, pair, pairs = size // sizeof(Word)
    cdef Word word
    for column in range(count):
        for pair in range(pairs):
            memcpy(&word, rows + column * stride + pair * sizeof(Word), sizeof(Word))
            out[16 * pair + column] = word
        if size % sizeof(Word):
            word = 0
            memcpy(&word, rows + column * stride + pairs * sizeof(Word), size % sizeof(Word))
            out[16 * pairs + column] = word


def has_nan(const uint8_t[:, ::1] codes) -> bool:
    """Whether E4M3 codes hold one of the two NaNs, 0x7f and 0xff."""
    cdef int64_t i, n = codes.shape[0] * codes.shape[1]
    cdef const uint8_t *code
    cdef uint8_t found = 0
    if n:
        code = &codes[0, 0]
        with nogil:
            for i in range(n):
                found |= (code[i] & 0x7F) == 0x7F
    return found != 0


def read_strided(int file, int64_t offset, int64_t stride, uint8_t[:, ::1] out) -> int:
    """Fill row i of `out` with the file's bytes from offset + i * stride on; rows that follow on are read as one.

    Returns the bytes read, fewer than asked for where the file ends. Raises OSError.
    """
    cdef int64_t row = 0, rows = out.shape[0], size = out.shape[1], done = 0, count, part
    cdef int error = 0
    if stride == size:
        rows, size = 1, rows * size
    if rows * size == 0:
        return 0
    cdef uint8_t *data = &out[0, 0]
    with nogil:
        while row < rows:
            part = 0
            while part < size:
                count = pread(file, data + row * size + part, size - part, offset + row * stride + part)
                if count < 0 and errno == EINTR:
                    continue
                if count <= 0:
                    error = errno if count < 0 else 0
                    break
                part += count
            done += part
            if part < size:
                break
            row += 1
    if error:
        raise OSError(error, os.strerror(error))
    return done


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
