"""The formats of GGUF's blocks: what the gguf package makes of them, rounded to bf16, bit for bit, on every ISA."""

import formats
import numpy as np
import pytest
from formats import BF16, BLOCKED
from harness import each_isa, for_cases, pack_weight
from hypothesis import strategies as st
from test_weight_formats import linear, normal, rows, seeds, tiles, widths

from ellm.kernels.formats import FORMATS, NUMBERED
from ellm.kernels.gguf_blocks import BLOCKS
from ellm.kernels.layout import from_bf16, to_bf16

depths = st.sampled_from([32, 96, 128, 224, 256, 512, 768, 1280])
format_and_depth = st.tuples(st.sampled_from(BLOCKED), depths).filter(
    lambda both: both[1] % NUMBERED[both[0]].stored.blocks.k == 0
)
each_format = pytest.mark.parametrize("format", BLOCKED, ids=lambda number: NUMBERED[number].name)


@pytest.mark.parametrize("name", BLOCKS)
def test_packed_blocks_are_worth_what_the_gguf_package_says(name):
    rows = formats.random_blocks(name, 37, 768, np.random.default_rng(0))
    expected = from_bf16(to_bf16(formats.dequantized(name, rows)))
    found = formats.values(formats.pack_blocks(name, rows), FORMATS[formats.NAMES[name]].number, 37, 768)
    np.testing.assert_array_equal(found, expected)


@for_cases(150, rows=rows, both=format_and_depth, n=widths, tiles=tiles, seed=seeds)
def test_product_is_that_of_the_dequantized_weight(isa, rows, both, n, tiles, seed):
    (format, k), random = both, np.random.default_rng(seed)
    name = NUMBERED[format].stored.dtype
    blocks = formats.random_blocks(name, n, k, random)
    x, expanded = normal(random, rows, k), pack_weight(from_bf16(to_bf16(formats.dequantized(name, blocks))))
    native = linear(x, formats.pack_blocks(name, blocks), format, n, tiles).run(isa)["out"]
    np.testing.assert_array_equal(native, linear(x, expanded, BF16, n, tiles).run(isa)["out"])


@each_isa
@each_format
def test_every_element(isa, format):
    """One-hot rows pick out each weight exactly."""
    name, random = NUMBERED[format].stored.dtype, np.random.default_rng(format)
    blocks = formats.random_blocks(name, 70, 256, random)
    expected = from_bf16(to_bf16(formats.dequantized(name, blocks)))
    for first in range(0, 256, 64):
        x = np.eye(256, dtype=np.float32)[first : first + 64]
        native = linear(x, formats.pack_blocks(name, blocks), format, 70, 4).run(isa)["out"]
        np.testing.assert_array_equal(native, expected.T[first : first + 64])
    one = linear(x[:1], formats.pack_blocks(name, blocks), format, 70, 4).run(isa)["out"]
    np.testing.assert_array_equal(one, expected.T[192:193])


@each_format
def test_sizes_are_those_of_the_package(format):
    import gguf

    blocks = NUMBERED[format].stored.blocks
    assert (blocks.k, blocks.bytes) == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[blocks.name]]
    assert blocks is BLOCKS[NUMBERED[format].stored.dtype]
    overhead = NUMBERED[format].column_bytes(64) / 16 / 2048 * 8 - NUMBERED[format].stored_bits
    assert 0 <= overhead <= 0.5  # scales of 4 or 6 bits take a byte here
