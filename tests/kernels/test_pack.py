"""Packing into the tiles of every format, reading strided bytes and rounding to bf16."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.kernels import layout, pack
from ellm.kernels.contract import TILE_N
from ellm.kernels.formats import FORMATS

HEADERS = {"bf16": 0, "f16": 0, "fp8": 64, "mxfp4": 64}
WORDS = {"bf16": 4, "f16": 4, "fp8": 2, "mxfp4": 4}  # bytes of one column that lie together


def column_bytes(format, k_tiles):
    return FORMATS[format].column_bytes(k_tiles)


def code_bytes(format, k_tiles) -> np.ndarray:
    """Where byte i of a row lies in a column tile, for its column 0: task.h's layouts."""
    word = WORDS[format]
    each = FORMATS[format].tile_bytes // 16
    tile, byte = np.divmod(np.arange(k_tiles * each), each)
    return tile * 16 * each + HEADERS[format] * (tile // 4 + 1) + byte // word * 16 * word + byte % word


def in_place(format, row) -> np.ndarray:
    """The bytes of a row, whole words, as its column holds them."""
    if format != "mxfp4":
        return row
    codes = np.stack((row & 15, row >> 4), -1).reshape(-1, 8)
    return (codes[:, [0, 2, 1, 3]] | codes[:, [4, 6, 5, 7]] << 4).reshape(-1)


def source_rows(run):
    _, first, rows, column, step = run
    return [(first + i * step, column + i) for i in range(rows)]


@st.composite
def runs(draw):
    """Runs to columns apart, whose rows may overlap and lie beyond the rows that are given."""
    found, column = [], draw(st.integers(0, 20))
    for _ in range(draw(st.integers(0, 4))):
        rows = draw(st.integers(0, 40))
        found.append([0, draw(st.integers(0, 50)), rows, column, draw(st.integers(1, 3))])
        column += rows + draw(st.integers(0, 20))
    return np.array(found, np.int64).reshape(-1, 5)


@settings(deadline=None, max_examples=150)
@given(
    format=st.sampled_from(sorted(WORDS)),
    runs=runs(),
    n=st.integers(0, 70),
    first_row=st.integers(0, 30),
    k=st.integers(0, 300),
    first_tile=st.integers(0, 5),
    spare=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_rows_become_columns(format, runs, n, first_row, k, first_tile, spare, seed):
    word = WORDS[format]
    size = -(-k // 2) if format == "mxfp4" else k * word // 2
    each = FORMATS[format].tile_bytes // 16
    k_tiles = first_tile + -(-k // 32) + spare
    columns = 16 + max((run[3] + run[2] for run in runs), default=0) // 16 * 16
    rows = np.random.default_rng(seed).integers(0, 256, (n, size), np.uint8)
    packed = np.full((columns // 16, column_bytes(format, k_tiles)), 0xEE, np.uint8)
    expected = packed.copy()
    places = code_bytes(format, k_tiles)[first_tile * each :][: -(-size // word) * word]
    for run in runs:
        for row, column in source_rows(run):
            if first_row <= row < first_row + n:
                padded = np.pad(rows[row - first_row], (0, len(places) - size))
                expected[column // 16, places + column % 16 * word] = in_place(format, padded)
    pack.pack_rows(rows, first_row, runs, packed.ctypes.data, format, k_tiles, first_tile)
    np.testing.assert_array_equal(packed, expected)


@settings(deadline=None, max_examples=100)
@given(
    format=st.sampled_from(["fp8", "mxfp4"]),
    runs=runs(),
    first_row=st.integers(0, 30),
    n=st.integers(0, 70),
    offset=st.integers(0, 127),
    count=st.integers(1, 9),
    first_scale=st.integers(0, 4),
    turned=st.booleans(),
)
def test_scales_go_to_headers(format, runs, first_row, n, offset, count, first_scale, turned):
    per_header, dtype, rows_per_scale = (1, np.float32, 128) if format == "fp8" else (4, np.uint8, 1)
    k_tiles = 4 // per_header * (first_scale + count)
    columns = 16 + max((run[3] + run[2] for run in runs), default=0) // 16 * 16
    height = (first_row + n + offset) // rows_per_scale + 1
    scales = np.random.default_rng(0).integers(0, 255, (height, count)).astype(dtype)
    packed = np.full((columns // 16, column_bytes(format, k_tiles)), 0xEE, np.uint8)
    expected = packed.copy()
    block = 64 + 4 * FORMATS[format].tile_bytes
    for run in runs:
        for row, column in source_rows(run):
            for i in range(count if first_row <= row < first_row + n else 0):
                header, part = divmod(first_scale + i, per_header)
                at = header * block + (part * 16 + column % 16) * scales.itemsize
                value = scales[(row + offset) // rows_per_scale, i : i + 1]
                expected[column // 16, at : at + scales.itemsize] = value.view(np.uint8)
    bits = scales.view(f"u{scales.itemsize}")
    given = np.asfortranarray(bits) if turned else bits
    pack.pack_scales(
        given, rows_per_scale, first_row, first_row + n, offset, runs, packed.ctypes.data, format, k_tiles, first_scale
    )
    np.testing.assert_array_equal(packed, expected)


def test_what_does_not_fit_is_refused():
    target, runs = np.zeros(4096, np.uint8), np.array([[0, 0, 2, 0, 1]], np.int64)
    with pytest.raises(ValueError, match="rows of 66 bytes from tile 0 on do not fit 1 tiles of bf16"):
        pack.pack_rows(np.ones((2, 66), np.uint8), 0, runs, target.ctypes.data, "bf16", 1)
    with pytest.raises(ValueError, match="rows of 17 bytes from tile 1 on do not fit 2 tiles of mxfp4"):
        pack.pack_rows(np.ones((2, 17), np.uint8), 0, runs, target.ctypes.data, "mxfp4", 2, 1)
    with pytest.raises(ValueError, match="2 scales from 0 on do not fit 4 tiles of fp8"):
        pack.pack_scales(np.ones((1, 2), np.uint32), 128, 0, 2, 0, runs, target.ctypes.data, "fp8", 4)
    with pytest.raises(ValueError, match="4 scales from 1 on do not fit 3 tiles of mxfp4"):
        pack.pack_scales(np.ones((2, 4), np.uint8), 1, 0, 2, 0, runs, target.ctypes.data, "mxfp4", 3, 1)
    assert not target.any()


def test_nan_codes():
    codes = np.array([[code for code in range(256) if code & 0x7F != 0x7F]], np.uint8)
    assert not pack.has_nan(codes, 0x7F) and not pack.has_nan(codes[:, :0], 0x7F)
    for place, code in ((0, 0x7F), (100, 0xFF), (253, 0x7F)):
        bad = codes.copy()
        bad[0, place] = code
        assert pack.has_nan(bad, 0x7F)


@pytest.mark.parametrize("offset, stride, rows, size", [(0, 7, 5, 7), (3, 10, 4, 6), (9, 0, 3, 4), (50, 9, 0, 9)])
def test_strided_bytes(tmp_path, offset, stride, rows, size):
    content = np.random.default_rng(0).integers(0, 256, 100, np.uint8)
    (tmp_path / "file").write_bytes(content.tobytes())
    out = np.zeros((rows, size), np.uint8)
    file = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        assert pack.read_strided(file, offset, stride, out) == rows * size
        for row in range(rows):
            np.testing.assert_array_equal(out[row], content[offset + row * stride :][:size])
        assert pack.read_strided(file, 80, 10, np.zeros((4, 6), np.uint8)) == 12
        assert pack.read_strided(file, 70, 6, np.zeros((10, 6), np.uint8)) == 30
    finally:
        os.close(file)
    with pytest.raises(OSError, match="Bad file descriptor"):
        pack.read_strided(file, 0, 1, np.zeros((1, 1), np.uint8))


@pytest.mark.parametrize("name, k, rows", [("bf16", 70, 40), ("f16", 32, 600), ("fp8", 4096, 300), ("bf16", 300000, 3)])
def test_rows_of_a_file_are_packed_as_rows_in_memory_are(tmp_path, name, k, rows):
    format, k_tiles = FORMATS[name], -(-k // 128) * 4
    size = k * format.bits // 8
    content = np.random.default_rng(k).integers(0, 0x7F, 100 + rows * (size + 20), np.uint8)
    (tmp_path / "file").write_bytes(content.tobytes())
    file, stride = os.open(tmp_path / "file", os.O_RDONLY), size + 20
    stored = np.stack([content[60 + row * stride :][:size] for row in range(rows)])
    runs = np.array([[0, 5, rows // 2, 3, 1], [0, 6 + rows // 2, rows // 8, rows, 2]], np.int64)
    packed = np.zeros((2, -(-2 * rows // TILE_N), format.column_bytes(k_tiles)), np.uint8)
    try:
        pack.pack_rows(stored, 5, runs, packed[0].ctypes.data, name, k_tiles)
        where = (60, stride, size, 5, 5 + rows, runs, packed[1].ctypes.data, name, k_tiles)
        assert pack.pack_file_rows(file, *where, nan=0x7F) == (rows * size, False)
        np.testing.assert_array_equal(*packed)
        assert pack.pack_file_rows(file, 60 + len(content) - 130, *where[1:])[0] < rows * size
    finally:
        os.close(file)
    with pytest.raises(OSError, match="Bad file descriptor"):
        pack.pack_file_rows(file, *where)
    with pytest.raises(ValueError, match="do not fit"):
        pack.pack_file_rows(
            file, 60, stride, (k_tiles + 1) * 64, 5, 5 + rows, runs, packed[1].ctypes.data, name, k_tiles
        )


def test_a_nan_in_a_file_is_found(tmp_path):
    codes = np.zeros((300, 4096), np.uint8)
    codes[299, 4095] = 0xFF
    (tmp_path / "file").write_bytes(codes.tobytes())
    runs, out = np.array([[0, 0, 300, 0, 1]], np.int64), np.zeros(19 * FORMATS["fp8"].column_bytes(128), np.uint8)
    with open(tmp_path / "file", "rb") as file:
        for nan, found in ((0x7F, True), (0x7E, False), (-1, False)):
            where = (file.fileno(), 0, 4096, 4096, 0, 300, runs, out.ctypes.data, "fp8", 128)
            assert pack.pack_file_rows(*where, nan=nan) == (codes.size, found)


def test_rounding_is_to_nearest_even():
    numbers = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -0.0, np.inf, 3.4e38, 1e-40], np.float32)
    expected = [0x3F80, 0x3F80, 0x3F82, 0x3F81, 0x8000, 0x7F80, 0x7F80, 0x0001]
    assert pack.to_bf16(numbers).tolist() == expected
    assert pack.to_bf16(np.zeros((3, 0, 2))).shape == (3, 0, 2)


def test_nan_stays_nan():
    nans = np.array([0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(layout.from_bf16(pack.to_bf16(nans))).all()


def test_rounding_agrees_with_numpy():
    numbers = np.random.default_rng(0).integers(0, 2**32, 100_000, np.uint32).view(np.float32)
    np.testing.assert_array_equal(pack.to_bf16(numbers), layout.to_bf16(numbers))
