"""formats.py: a format that the tests make up, and what C sees of the records."""

import numpy as np
from formats import in_words

from ellm.kernels import generate
from ellm.kernels.formats import BLOCK_K, FORMATS, NUMBERED, PLAIN, Format, Stored, packings, stored_format
from ellm.kernels.isa import ISAS

INT4 = Format(
    number=len(NUMBERED),
    name="int4",
    bits=4,
    decode=lambda codes: codes.astype(np.float32),
    stored=Stored("I32", "<i4", suffix="_packed", scales="_scale", scale_dtypes=("F16",)),
    computed="",
    k_per_scale=32,
    scale=np.dtype(np.float16),
    zero=np.dtype(np.uint8),
)


def test_numbers_are_places():
    assert [format.number for format in NUMBERED] == list(range(len(NUMBERED)))
    assert PLAIN.number == 0


def test_sizes():
    assert (INT4.word_bytes, INT4.tile_bytes, INT4.codes_per_item) == (4, 256, 8)
    assert INT4.header_bytes == 4 * 16 * (2 + 1)
    assert INT4.column_bytes(5) == 2 * (192 + 4 * 256)
    assert INT4.stored_bits == 4.75
    assert [format.stored_bits for format in NUMBERED] == [
        16, 16, 8 + 32 / 128**2, 4.25, 8.5, 4.5, 5, 5.5, 6, 4.5, 4.5, 5.5, 6.5625, 4.25, 3.4375, 2.625, 12.25,
        4.5, 4.125, 4.75, 4.1875, 4.75, 4.1875, 8.75, 8.1875, 8.75, 8.1875
    ]  # fmt: skip


def test_a_header_has_scales_then_zeros():
    random = np.random.default_rng(0)
    codes = random.integers(0, 16, (16, 2 * BLOCK_K), np.uint8)
    scales = random.uniform(0.5, 2, (16, 8)).astype(np.float16)
    zeros = random.integers(0, 16, (16, 8), np.uint8)
    words = in_words(codes).reshape(2, -1)
    heads = [numbers.reshape(16, 2, 4).transpose(1, 2, 0).reshape(2, -1).copy() for numbers in (scales, zeros)]
    packed = np.concatenate([heads[0].view(np.uint8), heads[1], words], 1)
    each = [np.repeat(numbers, 32, 1).astype(np.float32) for numbers in (scales, zeros)]
    found = INT4.weight(packed.ctypes.data, 1, 8)
    np.testing.assert_allclose(found, (codes - each[1]) * each[0], rtol=2**-8)


def test_a_tensor_is_known_by_its_dtype():
    assert stored_format("w.weight", "F8_E4M3").name == "fp8"
    assert stored_format("w_blocks", "U8").name == "mxfp4"
    assert stored_format("w.weight", "F32") is stored_format("w.weight", "BF16") is PLAIN


def test_what_holds_numbers_of_another_format_pays_somewhere():
    for format in NUMBERED:
        if format.packs:
            assert FORMATS[format.packs].stored == format.stored and format.bits < FORMATS[format.packs].bits
            assert format.pays and set(format.pays) <= set(ISAS)
    assert packings("amx") == packings("avx512") == {"bf16": "bf12"} and packings("portable") == {}


def test_c_sees_the_records():
    header = generate.formats_header()
    for format in NUMBERED:
        assert f"#define ELLM_{format.name.upper()} {format.number}\n" in header
        assert f"{{{format.tile_bytes}, {format.header_bytes}, {format.block_tiles}, {format.terms}," in header
