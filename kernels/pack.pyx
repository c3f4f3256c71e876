"""Packing weights into column tiles: rows of a checkpoint tensor, as stored, become packed columns.

A pair of k of one column is 4 or 2 bytes; codes of up to 8 bits are put to words. format.py says how they make tiles and
where scales stand.
All functions release the GIL.

`runs` is int64 [n, 5]: source, first row, rows, first column, row step. Row first + i * step of a run becomes column
first column + i; the source is the caller's business.
"""

from libc.errno cimport EINTR, EINVAL, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from posix.mman cimport madvise

import os

import numpy as np

from ellm.kernels.formats import FORMATS

from ellm.kernels.task cimport ELLM_TILE, ELLM_TILE_K, ELLM_TILE_N
from ellm.kernels.vector cimport vector_to_bf16

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int file, void *data, size_t size, int64_t offset)

cdef enum:
    PAGE = 4096
    READ_BYTES = 1 << 19    # of a file at a time: packed from the core's own cache
    MADV_POPULATE_READ = 22

ctypedef fused Word:
    uint32_t
    uint16_t
    uint8_t

ctypedef fused Pair:
    uint32_t
    uint16_t

cdef struct Layout:
    int64_t word          # bytes of one column that lie together
    int64_t tile          # bytes of a tile
    int64_t header        # bytes before every block of tiles
    int64_t block         # tiles of a block
    int64_t column        # bytes of a column tile
    int64_t bits          # of a code


cdef Layout _layout(str name, int64_t k_tiles):
    cdef Layout layout
    format = FORMATS[name]
    layout.word = format.word_bytes
    layout.tile = format.tile_bytes
    layout.header = format.header_bytes
    layout.block = format.block_tiles
    layout.column = format.column_bytes(k_tiles)
    layout.bits = format.bits
    return layout


def pack_rows(
    const uint8_t[:, ::1] rows, int64_t first_row, const int64_t[:, ::1] runs, uintptr_t address, str format,
    int64_t k_tiles, int64_t first_tile=0,
):
    """Write source rows [first_row, first_row + n), given as bytes [n, bytes of k], to the packed weight at `address`.

    The rows' first k is that of tile `first_tile`; codes of 4 bits are those of a byte's low half, then of its high one.
    Only their pairs of k or words are written, the last one filled up with zeros: other padding is left as it is (zero
    in fresh memory). Rows that are in no run are left out, and runs may reach beyond these rows. Raises ValueError if
    the rows are longer than the tiles.
    """
    cdef Layout layout = _layout(format, k_tiles)
    cdef int64_t size = rows.shape[1]
    _refuse_long(size, first_tile, k_tiles, layout, format)
    if size == 0 or rows.shape[0] == 0:
        return
    with nogil:
        _pack_runs(&rows[0, 0], size, first_row, first_row + rows.shape[0], runs, address, first_tile, layout)


def pack_file_rows(
    int file, int64_t offset, int64_t stride, int64_t size, int64_t first_row, int64_t end_row,
    const int64_t[:, ::1] runs, uintptr_t address, str format, int64_t k_tiles, int nan=-1,
) -> tuple:
    """Write source rows [first_row, end_row) to the packed weight at `address`, as `pack_rows` does, out of a file.

    The first row is `size` bytes from `offset` on, the next one `stride` bytes further. All of it is done without the
    GIL: any number of threads is then as fast as the file. Returns the bytes read, fewer where the file ends, and
    whether there was a code `nan`, with the sign bit or without. Raises OSError, ValueError as `pack_rows`, MemoryError.
    """
    cdef Layout layout = _layout(format, k_tiles)
    cdef int64_t rows, row, part, count = 0, done = 0
    cdef int error = 0
    cdef bint found = False
    _refuse_long(size, 0, k_tiles, layout, format)
    if size == 0 or first_row >= end_row:
        return 0, False
    rows = min(max(READ_BYTES // size, 1), end_row - first_row)
    cdef uint8_t *data = <uint8_t *> malloc(rows * size)
    if data == NULL:
        raise MemoryError(f"rows of {size} bytes")
    with nogil:
        row = first_row
        while row < end_row:
            part = min(rows, end_row - row)
            count = _read_rows(file, offset + (row - first_row) * stride, stride, size, part, data, &error)
            done += count
            if count < part * size:
                break
            found = found or nan >= 0 and _holds(data, count, nan)
            _pack_runs(data, size, row, row + part, runs, address, 0, layout)
            row += part
        free(data)
    if error:
        raise OSError(error, os.strerror(error))
    return done, found


def _refuse_long(int64_t size, int64_t first_tile, int64_t k_tiles, Layout layout, str format):
    if first_tile < 0 or size > (k_tiles - first_tile) * layout.tile // ELLM_TILE_N:
        raise ValueError(f"rows of {size} bytes from tile {first_tile} on do not fit {k_tiles} tiles of {format}")


# What runs take of source rows [first_row, end_row), whose bytes are at `rows`, `size` bytes each.
cdef void _pack_runs(
    const uint8_t *rows, int64_t size, int64_t first_row, int64_t end_row, const int64_t[:, ::1] runs, uintptr_t address,
    int64_t first_tile, Layout layout,
) noexcept nogil:
    cdef int64_t run, index, last, column, count
    cdef const uint8_t *source
    for run in range(runs.shape[0]):
        index, last = _clip(&runs[run, 0], first_row, end_row)
        while index < last:
            column = runs[run, 3] + index
            count = min(ELLM_TILE_N - column % ELLM_TILE_N, last - index)
            source = rows + (runs[run, 1] + index * runs[run, 4] - first_row) * size
            _pack_columns(source, runs[run, 4] * size, count, size, first_tile, address, column, layout)
            index += count


def pack_codes(
    const uint8_t[:, ::1] codes, int64_t first_row, const int64_t[:, ::1] runs, uintptr_t address, str format,
    int64_t k_tiles, int64_t first_tile=0,
):
    """Write the codes of source rows [first_row, first_row + n), a byte each, [n, k], to the packed weight at `address`.

    As `pack_rows` does, of formats that are not paired; k is a multiple of 8. Raises ValueError if it is not, or if
    the rows are longer than the tiles.
    """
    cdef Layout layout = _layout(format, k_tiles)
    cdef int64_t k = codes.shape[1], run, index, last, column
    cdef uintptr_t out
    if first_tile < 0 or k > (k_tiles - first_tile) * ELLM_TILE_K or k % 8 or FORMATS[format].paired:
        raise ValueError(f"rows of {k} codes from tile {first_tile} on do not fit {k_tiles} tiles of {format}")
    if k == 0 or codes.shape[0] == 0:
        return
    with nogil:
        for run in range(runs.shape[0]):
            index, last = _clip(&runs[run, 0], first_row, first_row + codes.shape[0])
            for index in range(index, last):
                column = runs[run, 3] + index
                out = address + column // ELLM_TILE_N * layout.column
                _pack_column(
                    &codes[runs[run, 1] + index * runs[run, 4] - first_row, 0], k, first_tile, out,
                    column % ELLM_TILE_N, layout,
                )


# One column of codes, tile by tile from `first` on.
cdef void _pack_column(
    const uint8_t *codes, int64_t k, int64_t first, uintptr_t column, int64_t n, Layout layout
) noexcept nogil:
    cdef int64_t tile, count
    cdef uint8_t *out
    for tile in range(first, first + (k + ELLM_TILE_K - 1) // ELLM_TILE_K):
        out = <uint8_t *> (column + tile * layout.tile + (tile // layout.block + 1) * layout.header)
        count = min(<int64_t> ELLM_TILE_K, k - (tile - first) * ELLM_TILE_K)
        _pack_parts(codes, count, <uint32_t *> out + n, layout.bits)
        codes += ELLM_TILE_K


# `count` codes of one column of a tile, a multiple of 4, cut into parts. Four codes at a time, a byte each.
cdef void _pack_parts(const uint8_t *codes, int64_t count, uint32_t *out, int64_t bits) noexcept nogil:
    cdef int64_t width = 8, low = 0, each, word, i
    cdef uint32_t four, value, mask
    while width:
        if bits & width:
            each = 32 // width
            mask = 0x01010101 * ((1 << width) - 1)
            for word in range((count + each - 1) // each):
                value = 0
                for i in range(min(each, count - word * each) // 4):
                    memcpy(&four, codes + word * each + 4 * i, 4)
                    value |= (four >> low & mask) << i * width
                out[word * ELLM_TILE_N] = _neighbours_in_halves(value)
            low += width
            out += ELLM_TILE * width // 32
        width //= 2


# Swaps the middle bytes.
cdef inline uint32_t _neighbours_in_halves(uint32_t word) noexcept nogil:
    return word >> 24 << 24 | (word & 0xFF00) << 8 | word >> 8 & 0xFF00 | word & 0xFF


def pack_scales(
    const Word[:, :] scales, int64_t rows_per_scale, int64_t first_row, int64_t end_row, int64_t offset,
    const int64_t[:, ::1] runs, uintptr_t address, str format, int64_t k_tiles, int64_t first_scale=0,
    str part="scale",
):
    """Write the scales of source rows [first_row, end_row) to the headers of the packed weight at `address`.

    Row r has the scales scales[(r + offset) // rows_per_scale], the bits of numbers of the type of this part of a
    header, the first being that of packed group `first_scale`. Raises ValueError if there are more than k_tiles need.
    """
    cdef Layout layout = _layout(format, k_tiles)
    place = FORMATS[format].parts[part]
    cdef int64_t block = layout.header + layout.block * layout.tile, groups = place.groups, begin = place.offset
    cdef int64_t run, index, last, column, row, i, group, count = scales.shape[1]
    cdef Word *out
    if first_scale + count > (k_tiles + layout.block - 1) // layout.block * groups:
        raise ValueError(f"{count} scales from {first_scale} on do not fit {k_tiles} tiles of {format}")
    with nogil:
        for run in range(runs.shape[0]):
            index, last = _clip(&runs[run, 0], first_row, end_row)
            for index in range(index, last):
                column = runs[run, 3] + index
                row = (runs[run, 1] + index * runs[run, 4] + offset) // rows_per_scale
                out = <Word *> (address + column // ELLM_TILE_N * layout.column + first_scale // groups * block + begin)
                out += column % ELLM_TILE_N
                group = first_scale % groups
                for i in range(count):
                    out[ELLM_TILE_N * group] = scales[row, i]
                    group += 1
                    if group == groups:
                        group = 0
                        out += block // sizeof(Word)


# The part [index, last) of a run whose source rows lie in [begin, end).
cdef inline (int64_t, int64_t) _clip(const int64_t *run, int64_t begin, int64_t end) noexcept nogil:
    cdef int64_t step = run[4]
    return (max(begin - run[1], 0) + step - 1) // step, min(run[2], (max(end - run[1], 0) + step - 1) // step)


# Some columns of one column tile, tile by tile, so that a cache line of a row is read once.
cdef void _pack_columns(
    const uint8_t *rows, int64_t stride, int64_t count, int64_t size, int64_t tile, uintptr_t address, int64_t column,
    Layout layout,
) noexcept nogil:
    cdef uintptr_t out = address + column // ELLM_TILE_N * layout.column + column % ELLM_TILE_N * layout.word
    cdef uintptr_t place
    cdef int64_t done = 0, part
    while done < size:
        part = min(size - done, layout.tile // ELLM_TILE_N)
        place = out + tile * layout.tile + (tile // layout.block + 1) * layout.header
        if layout.bits < 8:
            _pack_nibbles(rows + done, stride, count, part, <uint32_t *> place)
        elif layout.word == 4:
            _pack_tile(rows + done, stride, count, part, <uint32_t *> place)
        else:
            _pack_tile(rows + done, stride, count, part, <uint16_t *> place)
        done += part
        tile += 1


# Transposes pairs of k [count][pairs] into [pairs][ELLM_TILE_N].
cdef void _pack_tile(const uint8_t *rows, int64_t stride, int64_t count, int64_t size, Pair *out) noexcept nogil:
    cdef int64_t column, pair, pairs = size // sizeof(Pair)
    cdef Pair word
    for column in range(count):
        for pair in range(pairs):
            memcpy(&word, rows + column * stride + pair * sizeof(Pair), sizeof(Pair))
            out[ELLM_TILE_N * pair + column] = word
        if size % sizeof(Pair):
            word = 0
            memcpy(&word, rows + column * stride + pairs * sizeof(Pair), size % sizeof(Pair))
            out[ELLM_TILE_N * pairs + column] = word


# As _pack_tile, of words of eight codes of 4 bits, whose neighbours go to bytes.
cdef void _pack_nibbles(
    const uint8_t *rows, int64_t stride, int64_t count, int64_t size, uint32_t *out
) noexcept nogil:
    cdef int64_t column, word
    cdef uint32_t codes
    for column in range(count):
        for word in range((size + 3) // 4):
            codes = 0
            memcpy(&codes, rows + column * stride + 4 * word, min(<int64_t> 4, size - 4 * word))
            codes = _bytes_of_nibbles(codes & 0xFFFF) | _bytes_of_nibbles(codes >> 16) << 4
            out[ELLM_TILE_N * word + column] = _neighbours_in_halves(codes)


# Four halves of bytes, a byte each.
cdef inline uint32_t _bytes_of_nibbles(uint32_t codes) noexcept nogil:
    codes = (codes | codes << 8) & 0x00FF00FF
    return (codes | codes << 4) & 0x0F0F0F0F


def has_nan(const uint8_t[:, ::1] codes, uint8_t nan) -> bool:
    """Whether codes of 8 bits hold one of the two NaNs: `nan`, with the sign bit or without."""
    cdef int64_t n = codes.shape[0] * codes.shape[1]
    cdef bint found = False
    if n:
        with nogil:
            found = _holds(&codes[0, 0], n, nan)
    return found


cdef bint _holds(const uint8_t *codes, int64_t n, uint8_t nan) noexcept nogil:
    cdef uint8_t found = 0
    cdef int64_t i
    for i in range(n):
        found |= (codes[i] & 0x7F) == nan
    return found != 0


def read_strided(int file, int64_t offset, int64_t stride, uint8_t[:, ::1] out) -> int:
    """Fill row i of `out` with the file's bytes from offset + i * stride on; rows that follow on are read as one.

    Returns the bytes read, fewer than asked for where the file ends. Raises OSError.
    """
    cdef int64_t rows = out.shape[0], size = out.shape[1], done
    cdef int error = 0
    if rows * size == 0:
        return 0
    with nogil:
        done = _read_rows(file, offset, stride, size, rows, &out[0, 0], &error)
    if error:
        raise OSError(error, os.strerror(error))
    return done


# Bytes read of rows of a file, those before the first that cannot be; `error` says why if not because the file ends.
cdef int64_t _read_rows(
    int file, int64_t offset, int64_t stride, int64_t size, int64_t rows, uint8_t *out, int *error
) noexcept nogil:
    cdef int64_t row, part, count, done = 0
    if stride == size:
        rows, size = 1, rows * size
    for row in range(rows):
        part = 0
        while part < size:
            count = pread(file, out + row * size + part, size - part, offset + row * stride + part)
            if count < 0 and errno == EINTR:
                continue
            if count <= 0:
                error[0] = errno if count < 0 else 0
                return done + part
            part += count
        done += part
    return done


def populate(uintptr_t address, int64_t size):
    """Have the pages of `size` bytes at `address`, where a file is mapped, in memory and in the tables of this process.

    Linux before 5.14 cannot do it beforehand: there they come when they are touched. Raises OSError if a page cannot be
    had, as that of a file that was cut short.
    """
    cdef uintptr_t begin = address & ~<uintptr_t>(PAGE - 1)
    cdef int failure = 0
    with nogil:
        if madvise(<void *>begin, address - begin + size, MADV_POPULATE_READ):
            failure = errno
    if failure not in (0, EINVAL):
        raise OSError(failure, os.strerror(failure))


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
