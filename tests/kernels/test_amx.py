"""The AMX extension: its machine code, its emulator, and that the kernels really run tile instructions."""

import ctypes
import importlib.util
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import amx
import numpy as np
import pytest
from harness import pack_weight
from test_tiles import K, Linear, N

from ellm.kernels import isa
from ellm.kernels.layout import from_bf16, to_bf16

if amx.obstacle():
    pytest.skip(str(amx.obstacle()), allow_module_level=True)

EMULATED = isa.available()["amx"] is not None

ONE_PRODUCT = """
#include <immintrin.h>
#include <stdint.h>
/* c[16][c_stride bytes] += a[16][32] . b (a tile), with heights and widths of the tiles as given */
void product(float *c, long c_stride, const void *a, const void *b, const uint8_t *config) {
    struct { uint8_t bytes[64]; } copy;
    __builtin_memcpy(&copy, config, 64);
    __asm__ volatile("ldtilecfg %0" :: "m"(copy));
    _tile_loadd(1, c, c_stride);
    _tile_stream_loadd(5, a, 64);
    _tile_loadd(7, b, 64);
    _tile_dpbf16ps(1, 5, 7);
    _tile_stored(1, c, c_stride);
    _tile_zero(5);
    _tile_release();
}
"""


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    folder = tmp_path_factory.mktemp("product")
    (folder / "product.c").write_text(ONE_PRODUCT)
    command = ["cc", "-O2", "-mamx-tile", "-mamx-bf16", "-shared", "-fPIC", "product.c", "-o", "product.so"]
    subprocess.run(command, cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "product.so"))

    def call(c, a, b, rows=16, columns=16, pairs=16):
        config = np.zeros(64, np.uint8)
        config[0] = 1
        for tile, (height, width) in {1: (rows, 4 * columns), 5: (rows, 4 * pairs), 7: (pairs, 4 * columns)}.items():
            config[16 + 2 * tile], config[48 + tile] = width, height
        pointers = [ctypes.c_void_p(x.ctypes.data) for x in (c, a, b, config)]
        library.product(pointers[0], ctypes.c_long(c.strides[0]), *pointers[1:])

    return call


@pytest.mark.parametrize(("rows", "columns", "pairs"), [(16, 16, 16), (5, 16, 16), (16, 3, 16), (16, 16, 7), (1, 1, 1)])
def test_tile_product(product, rows, columns, pairs):
    random = np.random.default_rng(rows + columns + pairs)
    x, w = random.integers(-8, 9, (16, 32)).astype(np.float32), random.integers(-8, 9, (16, 32)).astype(np.float32)
    c = np.full((16, 24), 7, np.float32)
    product(c, to_bf16(x), pack_weight(w), rows, columns, pairs)
    expected = np.full((16, 24), 7, np.float32)
    expected[:rows, :columns] += x[:rows, : 2 * pairs] @ w[:columns, : 2 * pairs].T
    np.testing.assert_array_equal(c, expected)


def test_even_and_odd_elements_are_summed_apart(product):
    """TDPBF16PS adds the even products of a tile, the odd ones, then both, then C: visible where f32 rounds."""
    x, w = np.ones((16, 32), np.float32), np.zeros((16, 32), np.float32)
    w[:, 0], w[:, 1], w[:, 3] = 2.0**24, 1, 1  # in order of k each 1 would be lost; together they are not
    c = np.zeros((16, 16), np.float32)
    product(c, to_bf16(x), pack_weight(w))
    assert (c == 2.0**24 + 2).all()


def test_denormals_are_flushed(product):
    x, w = np.full((16, 32), 1e-39, np.float32), np.full((16, 32), 2.0**100, np.float32)
    c = np.zeros((16, 16), np.float32)
    product(c, to_bf16(x), pack_weight(w))
    assert (c == 0).all()
    x[:], w[:] = 2.0**-70, 2.0**-70
    product(c, to_bf16(x), pack_weight(w))
    assert (c == 0).all()


def test_nan_and_infinity_pass_through(product):
    x, w = np.zeros((16, 32), np.float32), np.ones((16, 32), np.float32)
    x[2, 3], x[4, 9] = np.nan, np.inf
    c = np.zeros((16, 16), np.float32)
    product(c, to_bf16(x), pack_weight(w))
    assert np.isnan(c[2]).all() and np.isinf(c[4]).all()
    assert (c[[0, 1, 3]] == 0).all()


def test_tiles_belong_to_a_thread(product):
    """Products in several threads at once, on different operands, do not mix."""
    random = np.random.default_rng(1)
    x = random.integers(-8, 9, (4, 16, 32)).astype(np.float32)
    w = pack_weight(random.integers(-8, 9, (16, 32)).astype(np.float32))
    sums = np.zeros((4, 16, 16), np.float32)

    def repeat(i):
        for _ in range(300):
            product(sums[i], to_bf16(x[i]), w)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(repeat, range(4)))
    once = np.zeros((4, 16, 16), np.float32)
    for i in range(4):
        product(once[i], to_bf16(x[i]), w)
    np.testing.assert_array_equal(sums, 300 * once)


@pytest.mark.skipif(not EMULATED, reason="this CPU has AMX: its instructions do not trap")
def test_kernels_run_tile_products():
    linear = Linear("amx")
    before = amx.emulator().amx_trap_products()
    y = linear(list(range(20)))
    tiles = 2 * (N // 16) * -(-K // 32)
    assert amx.emulator().amx_trap_products() - before == tiles
    exact = from_bf16(to_bf16(linear.x[:20])).astype(np.float64) @ from_bf16(to_bf16(linear.w)).T
    np.testing.assert_allclose(y, exact, atol=1e-4)


def test_extension_contains_tile_instructions():
    if shutil.which("objdump") is None:
        pytest.skip("no objdump")
    origin = importlib.util.find_spec("ellm.kernels._amx").origin
    code = subprocess.run(["objdump", "-d", origin], check=True, capture_output=True, text=True).stdout
    counts = {name: code.count(name) for name in ("tdpbf16ps", "tileloadd", "tilestored", "ldtilecfg", "tilerelease")}
    assert all(counts.values()), counts
    assert counts["tdpbf16ps"] >= 9  # blocks of 2x2, 1x4 and 1x1 tiles
