"""Products in whole numbers: the bits of the NumPy reference, on every ISA, for any number of rows."""

import formats
import numpy as np
import pytest
from harness import Case, each_isa, for_cases
from hypothesis import strategies as st
from test_weight_formats import linear, normal, seeds, tiles, widths

from ellm.kernels import reference_integer
from ellm.kernels.contract import INT8, INT16
from ellm.kernels.formats import NUMBERED
from ellm.kernels.layout import from_bf16, to_bf16

WHOLE = [format.number for format in NUMBERED if format.whole]
rows = st.one_of(st.sampled_from([1, 2, 5, 6, 7, 16, 17, 33, 64]), st.integers(1, 64))
depths = st.sampled_from([1, 31, 32, 97, 128, 250, 512, 600])
each_format = pytest.mark.parametrize("format", WHOLE, ids=lambda number: NUMBERED[number].name)
kinds = st.sampled_from([INT16, INT8])


def product(x: np.ndarray, packed: np.ndarray, format: int, n: int, activations: int, task_tiles: int = 4) -> Case:
    case = linear(x, packed, format, n, task_tiles)
    case.args["activations"] = activations
    return case


def weight(format: int, n: int, k: int, random: np.random.Generator) -> np.ndarray:
    return formats.random_weight(format, n, k, random)


def spread(random: np.random.Generator, rows: int, k: int) -> np.ndarray:
    """Rows whose parts differ in size, some of them by far."""
    return normal(random, rows, k) * np.repeat(2.0 ** random.integers(-70, 70, (rows, -(-k // 32))), 32, 1)[:, :k]


@for_cases(
    200,
    rows=rows,
    k=depths,
    n=widths,
    tiles=tiles,
    format=st.sampled_from(WHOLE),
    kind=kinds,
    far=st.booleans(),
    seed=seeds,
)
def test_product_is_the_reference_bit_for_bit(isa, rows, k, n, tiles, format, kind, far, seed):
    random = np.random.default_rng(seed)
    x = (spread if far else normal)(random, rows, k).astype(np.float32)
    case = product(x, weight(format, n, k, random), format, n, kind, tiles)
    np.testing.assert_array_equal(case.run(isa)["out"], case.run(None)["out"])


@each_isa
@each_format
@pytest.mark.parametrize("kind", [INT16, INT8])
def test_row_does_not_depend_on_other_rows(isa, format, kind):
    random = np.random.default_rng(format)
    x, packed = normal(random, 64, 330), weight(format, 150, 330, random)
    whole = product(x, packed, format, 150, kind).run(isa)["out"]
    for count in (1, 2, 3, 4, 5, 6, 7, 8, 16, 17, 40, 63):
        part = product(x[64 - count :], packed, format, 150, kind).run(isa)["out"]
        np.testing.assert_array_equal(part, whole[64 - count :], err_msg=f"{count} rows")


@each_format
@pytest.mark.parametrize("kind", [INT16, INT8])
def test_error_is_that_of_rounded_activations(format, kind):
    """Half a step at most, times the weights."""
    random = np.random.default_rng(format)
    x, packed = normal(random, 5, 512), weight(format, 70, 512, random)
    w = formats.numbers(packed, format, 70, 512)
    y = product(x, packed, format, 70, kind).run(None)["out"]
    half = reference_integer.whole(x, kind, NUMBERED[format])[1] / 2
    bound = half @ np.abs(w).reshape(70, -1, 32).sum(2).T + 2.0**-20 * (np.abs(x) @ np.abs(w).T)
    assert (np.abs(y - x.astype(np.float64) @ w.T) <= bound).all()


@each_format
@pytest.mark.parametrize("outlier", [1, 10, 100, 1000])
def test_rounding_to_16_bits_is_nearer_than_to_bf16(format, outlier):
    """Whatever stands out of a unit: by the error of the sum of its squares."""
    random = np.random.default_rng(format)
    x = normal(random, 40, 256)
    x[np.arange(40), random.integers(0, 256, 40)] *= outlier
    a, scale = reference_integer.whole(x, INT16, NUMBERED[format])
    ours = (a * scale[..., None]).reshape(x.shape) - x.astype(np.float64)
    theirs = from_bf16(to_bf16(x)) - x.astype(np.float64)
    assert (ours**2).sum() < (theirs**2).sum() / 16


@each_isa
@each_format
@pytest.mark.parametrize("kind", [INT16, INT8])
def test_extremes_do_not_overflow(isa, format, kind):
    """All codes and all activations at their most, of either sign."""
    found = NUMBERED[format]
    name = found.stored.dtype
    for byte in (0x00, 0xFF, 0x7F, 0x80):
        packed = weight(format, 20, 512, np.random.default_rng(0))
        blocks = packed.reshape(-1).view(np.uint8).reshape(-1, found.block_bytes)
        blocks[:, found.header_bytes :] = byte
        if found.nested:
            part = found.parts["scale"]
            most = found.most_scale - (found.most_scale == 128)
            blocks[:, part.offset : part.offset + part.bytes] = most
        for rows in (1, 5):
            x = np.full((rows, 512), 3.75, np.float32)
            x[:, ::2] *= -1 if byte == 0x7F else 1
            case = product(x, packed, format, 20, kind)
            np.testing.assert_array_equal(case.run(isa)["out"], case.run(None)["out"], err_msg=f"{name} {byte} {rows}")


@each_isa
@each_format
@pytest.mark.parametrize("kind", [INT16, INT8])
def test_far_activations(isa, format, kind):
    """Zeros, subnormals, the greatest float32; a row with an infinity or a NaN is NaN, and no other."""
    random = np.random.default_rng(3)
    x = normal(random, 9, 256)
    x[0] = 0
    x[1] = 1e-41
    x[2, 40:80] = 3.3e38
    x[3, 7], x[4, 70], x[5, 255] = np.inf, -np.inf, np.nan
    x[6, 64:96] = 2.0**-101
    packed = weight(format, 40, 256, random)
    case = product(x, packed, format, 40, kind)
    y = case.run(isa)["out"]
    np.testing.assert_array_equal(y, case.run(None)["out"])
    assert (y[:2] == 0).all()
    assert np.isnan(y[3:6]).all()
    assert not np.isnan(y[[0, 1, 6, 7, 8]]).any()
    for row in range(9):
        alone = product(x[row : row + 1], packed, format, 40, kind).run(isa)["out"]
        np.testing.assert_array_equal(alone[0], y[row])


@for_cases(20, rows=rows, k=depths, n=widths, kind=kinds, seed=seeds)
def test_rows_of_bf16_and_norms(isa, rows, k, n, kind, seed):
    """bf16 rows are made whole as their values are; a norm's rounding may take an activation to the next step."""
    random = np.random.default_rng(seed)
    format = WHOLE[seed % len(WHOLE)]
    x, packed = from_bf16(to_bf16(normal(random, rows, k))), weight(format, n, k, random)
    expected = product(x, packed, format, n, kind).run(isa)["out"]
    narrow = product(x, packed, format, n, kind)
    stride = -(-k // 32) * 32
    narrow.args |= {"x_bf16": 1, "x_stride": stride}
    narrow.place("x", to_bf16(x), stride)
    np.testing.assert_array_equal(narrow.run(isa)["out"], expected)
    normed = product(x, packed, format, n, kind)
    normed.constant("norm", random.uniform(0.5, 2, k).astype(np.float32))
    normed.args["eps"] = 1e-6
    y, near = normed.run(isa)["out"], normed.run(None)["out"]
    w = np.abs(formats.numbers(packed, format, n, k))
    np.testing.assert_allclose(y, near, atol=float(8 * w.max() * (2.0**-6 if kind == INT8 else 2.0**-12)))


def test_sums_fit_in_32_bits():
    for number in WHOLE:
        format = NUMBERED[number]
        most = int(np.abs(format.worth.astype(int)).max()) * format.most_scale
        assert most * format.most_sum < 2**31
        assert format.nested or format.most_sum >= 32 * (256 * 127 + 127)
    a, scale = reference_integer.whole(np.array([[3.0] * 31 + [32639.5]], np.float32), INT16, NUMBERED[WHOLE[1]])
    assert scale.tolist() == [[2.0]]
    assert a[0, 0, [0, 31]].tolist() == [2, 16320]


def test_sum_of_activations_of_a_block_is_bounded():
    """Those of Q6_K are as large as its weights leave room for, and no larger."""
    format = next(format for format in NUMBERED if format.name == "q6_k")
    x = np.random.default_rng(0).standard_normal((20, 600)).astype(np.float32)
    a, scale = reference_integer.whole(np.pad(x, ((0, 0), (0, 8))), INT16, format)
    for begin in range(0, 19, 8):
        sums = np.abs(a[:, begin : begin + 8]).sum((1, 2))
        assert (scale[:, begin : begin + 8] == scale[:, begin, None]).all()
        assert (sums <= format.most_sum).all()
        assert (sums > format.most_sum / 2 - 256).all() or begin == 16
