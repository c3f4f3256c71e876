"""Packing into tiles and rounding to bf16."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.kernels import layout, pack


@settings(deadline=None, max_examples=80)
@given(
    n=st.integers(0, 70),
    k=st.integers(0, 100),
    first=st.integers(0, 40),
    spare=st.integers(0, 1),
    seed=st.integers(0, 99),
)
def test_rows_become_columns(n, k, first, spare, seed):
    k_tiles = max(1, -(-k // 32)) + spare
    n_tiles = -(-(first + n + 5) // 16)
    rows = np.random.default_rng(seed).integers(0, 2**15, (n, k), np.uint16) & 0x7F7F
    packed = np.full(n_tiles * k_tiles * 512, 0x4000, np.uint16)
    pack.pack_tiles(rows, packed.ctypes.data, first, k, k_tiles)
    expected = np.full((16 * n_tiles, 32 * k_tiles), 2, np.float32)
    expected[first : first + n, : k + k % 2] = 0
    expected[first : first + n, :k] = layout.from_bf16(rows)
    np.testing.assert_array_equal(layout.weight(packed.ctypes.data, n_tiles, k_tiles), expected)


def test_rows_that_do_not_fit_are_refused():
    target = np.zeros(512, np.uint16)
    with pytest.raises(ValueError, match=r"rows \[2, 40\] at column 0 do not fit k = 40 in 1 tiles"):
        pack.pack_tiles(np.zeros((2, 40), np.uint16), target.ctypes.data, 0, 40, 1)
    with pytest.raises(ValueError, match="do not fit k = 31"):
        pack.pack_tiles(np.zeros((2, 32), np.uint16), target.ctypes.data, 0, 31, 1)
    assert not target.any()


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
