"""bf16 in 12 bits: the very bits of bf16, on every ISA, whatever the exponents."""

import formats
import numpy as np
import pytest
from formats import BF12, BF16, PACKED
from harness import Case, Memory, each_isa, for_cases, pack_weight, up
from hypothesis import given, settings
from hypothesis import strategies as st
from test_weight_formats import linear, normal, rows, seeds, tiles, widths

from ellm.kernels.bf12 import HEADER, PATCHES, WIDE
from ellm.kernels.layout import from_bf16, to_bf16
from ellm.kernels.spill import Spill

depths = st.sampled_from([1, 24, 97, 128, 200, 330, 576])


def drawn_bits(kind: str, n: int, k: int, random: np.random.Generator) -> np.ndarray:
    """bf16 bits [n, k]."""
    if kind == "far":  # all but infinities and NaN
        bits = random.integers(0, 2**16, (n, k), np.uint16)
        return np.where(bits & 0x7F80 == 0x7F80, bits & 0x3FFF, bits).astype(np.uint16)
    if kind == "sparse":
        return np.where(random.random((n, k)) < 0.9, 0, drawn_bits("normal", n, k, random)).astype(np.uint16)
    values = random.standard_normal((n, k)) if kind == "normal" else random.standard_t(2, (n, k))
    bits = to_bf16((0.02 * values).astype(np.float32))
    if kind == "some far":
        bits[random.random((n, k)) < 0.002] = drawn_bits("far", 1, 1, random)[0, 0]
    return bits


kinds = st.sampled_from(["normal", "tails", "some far", "sparse", "far"])


def headers(packed: np.ndarray, n: int, k: int) -> np.ndarray:
    count = up(n, 16) // 16 * up(k, 128) // 128
    blocks = packed[: count * PACKED.block_bytes].reshape(count, -1)
    return blocks[:, : HEADER.itemsize].copy().view(HEADER)[:, 0]


def unpacked(packed: np.ndarray, n: int, k: int) -> np.ndarray:
    """The bits [n, k] of a packed weight."""
    memory = Memory.of(packed)
    found = PACKED.weight(memory.address, up(n, 16) // 16, up(k, 32) // 32)[:n, :k]
    return (found.view(np.uint32) >> 16).astype(np.uint16)


@settings(deadline=None, max_examples=60)
@given(kind=kinds, n=widths, k=depths, seed=seeds)
def test_packing_keeps_every_bit(kind, n, k, seed):
    bits = drawn_bits(kind, n, k, np.random.default_rng(seed))
    np.testing.assert_array_equal(unpacked(formats.pack_bf12(bits), n, k), bits)


def test_infinities_nan_and_subnormals_are_kept():
    bits = np.arange(2**16, dtype=np.uint16).reshape(128, 512)
    np.testing.assert_array_equal(unpacked(formats.pack_bf12(bits), 128, 512), bits)


@for_cases(120, rows=rows, kind=kinds, k=depths, n=widths, tiles=tiles, seed=seeds)
def test_product_is_that_of_bf16(isa, rows, kind, k, n, tiles, seed):
    random = np.random.default_rng(seed)
    x, bits = normal(random, rows, k), drawn_bits(kind, n, k, random)
    native = linear(x, formats.pack_bf12(bits), BF12, n, tiles).run(isa)["out"]
    expected = linear(x, pack_weight(from_bf16(bits)), BF16, n, tiles).run(isa)["out"]
    np.testing.assert_array_equal(native.view(np.uint32), expected.view(np.uint32))


@each_isa
@pytest.mark.parametrize("kind", ["tails", "some far", "far"])
@pytest.mark.parametrize("count", [1, 6, 13, 24, 25, 64])
def test_many_blocks_and_columns(isa, kind, count):
    """Every way in which kernels expand, with exceptions in most blocks, and a last block that is not whole."""
    random = np.random.default_rng(count)
    x, bits = normal(random, count, 576), drawn_bits(kind, 150, 576, random)
    native = linear(x, formats.pack_bf12(bits), BF12, 150, 8).run(isa)["out"]
    expected = linear(x, pack_weight(from_bf16(bits)), BF16, 150, 8).run(isa)["out"]
    np.testing.assert_array_equal(native.view(np.uint32), expected.view(np.uint32))


@each_isa
@pytest.mark.parametrize("kind", ["tails", "far"])
def test_embedding_looks_up_every_element(isa, kind):
    bits = drawn_bits(kind, 40, 200, np.random.default_rng(0))
    case = Case("embed", 40)
    case.constant("table", formats.pack_bf12(bits))
    case.step.tokens = np.arange(40, dtype=np.int32)
    case.args |= {"width": 200, "k_tiles": 7, "vocab": 40, "scale": 1.0, "format": BF12}
    case.output("out", (200,), np.float32)
    np.testing.assert_array_equal(case.run(isa)["out"].view(np.uint32), from_bf16(bits).view(np.uint32))


def block(exceptions: int) -> np.ndarray:
    """A block's bits [16, 128], of 16 common high bytes and so many others, no two of which are alike in place."""
    random = np.random.default_rng(exceptions)
    bits = random.integers(0, 2**16, (16, 128), np.uint16) & 0x87FF | 0x3800
    places = random.choice(2048, exceptions, replace=False)
    bits.reshape(-1)[places] = random.integers(0, 0x3000, exceptions)
    return bits


@each_isa
@pytest.mark.parametrize("exceptions", [0, 1, PATCHES - 1, PATCHES, PATCHES + 1, 100])
def test_a_list_of_exceptions_is_full(isa, exceptions):
    """One more than it holds makes the block wide."""
    bits = np.concatenate([block(exceptions), block(0), block(1), block(0)])
    packed = formats.pack_bf12(bits)
    wide = exceptions > PATCHES
    assert headers(packed, 64, 128)["patches"].tolist() == [WIDE if wide else exceptions, 0, 1, 0]
    assert packed.size == 4 * PACKED.block_bytes + wide * PACKED.spill_bytes
    np.testing.assert_array_equal(unpacked(packed, 64, 128), bits)
    for count in (1, 7, 25, 64):
        x = normal(np.random.default_rng(count), count, 128)
        native = linear(x, packed, BF12, 64, 4).run(isa)["out"]
        np.testing.assert_array_equal(native, linear(x, pack_weight(from_bf16(bits)), BF16, 64, 4).run(isa)["out"])


def test_normal_weights_have_few_exceptions():
    bits = drawn_bits("normal", 256, 2048, np.random.default_rng(0))
    found = headers(formats.pack_bf12(bits), 256, 2048)
    assert found["patches"].sum() < 0.05 * len(found)


def test_spill_is_used_once_and_has_an_end():
    tiles = np.random.default_rng(0).integers(0, 2**16, 3 * 2048, np.uint16)
    memory = Memory(3 * (PACKED.block_bytes + PACKED.spill_bytes))
    spill = Spill(memory.address + 3 * PACKED.block_bytes, 2 * PACKED.spill_bytes)
    with pytest.raises(MemoryError, match="spill of 2048 bytes"):
        spill.pack(tiles, memory.address, PACKED.name)
    assert (memory.bytes[-PACKED.spill_bytes :] == 0xFF).all()
    with pytest.raises(ValueError, match="5 elements are not whole blocks of 2048"):
        spill.pack(tiles[:5], memory.address, PACKED.name)
