"""CPUs that fetch into L1 read what few rows meet in another order, to the same bits."""

import importlib

import formats
import numpy as np
import pytest
from formats import BF12, BF16
from harness import ISAS, pack_weight
from test_attend import Shape, drawn_case, make, whole_items
from test_bf12 import drawn_bits
from test_weight_formats import linear, normal

from ellm.kernels.layout import from_bf16

pytestmark = pytest.mark.skipif("avx512" not in ISAS, reason="other ISAs have no choice")


@pytest.fixture(params=[True, False], ids=["L1", "L2"])
def fetched(request):
    """What runs on AVX-512 meanwhile fetches so."""
    kernels = importlib.import_module("ellm.kernels._avx512")
    kernels.fetch_into_l1(request.param)
    yield
    kernels.fetch_into_l1(kernels.FETCHES == "L1")


@pytest.mark.parametrize("kind", ["normal", "tails", "some far", "far"])
def test_weights(fetched, kind):
    random = np.random.default_rng(3)
    n, k = 150, 330
    bits = drawn_bits(kind, n, k, random)
    plain, few_bits = pack_weight(from_bf16(bits)), formats.pack_bf12(bits)
    x = normal(random, 26, k)
    many = linear(x, plain, BF16, n, 9).run("avx512")["out"]
    for rows in range(1, 27):
        for packed, format in ((plain, BF16), (few_bits, BF12)):
            np.testing.assert_array_equal(linear(x[:rows], packed, format, n, 9).run("avx512")["out"], many[:rows])


@pytest.mark.parametrize("value_dim", [16, 64, 96, 128])
@pytest.mark.parametrize("int8", [False, True], ids=["bf16", "int8"])
def test_keys_and_values(fetched, value_dim, int8):
    shape = Shape(kv_heads=1, group=1, head_dim=64, value_dim=value_dim, int8=int8)
    begins, sequences, queries = drawn_case(shape, [(1100, 20)], seed=8)
    many = make(shape, sequences, queries, whole_items(shape, begins)).run("avx512")["out"]
    for rows in range(1, 20):
        few = make(shape, sequences, [queries[0][:rows]], whole_items(shape, [(1100, rows)])).run("avx512")["out"]
        np.testing.assert_array_equal(few, many[:rows])
