"""Weights in FP8, MXFP4, F16 and integers: the same bits as with the weight expanded beforehand, on every ISA."""

import formats
import numpy as np
import pytest
from formats import BF12, BF16, BLOCKED, F16, FP8, IN_TERMS, INTEGERS, MXFP4
from harness import Case, Memory, each_isa, for_cases, pack_weight, up
from hypothesis import strategies as st

from ellm.kernels import contract
from ellm.kernels.formats import E4M3, NUMBERED, e8m0
from ellm.kernels.layout import from_bf16, to_bf16
from ellm.kernels.records import RECORDS

rows = st.integers(1, 64)
depths = st.sampled_from([1, 24, 97, 128, 200, 330, 576])
widths = st.sampled_from([1, 16, 40, 70, 150])
tiles = st.integers(1, 9)
seeds = st.integers(0, 2**32 - 1)


def linear(x: np.ndarray, packed: np.ndarray, format: int, n: int, task_tiles: int) -> Case:
    block = up(len(x), 64)
    case = Case("linear", len(x), row_block=block, section=max(1 << 19, 8 * block * (x.shape[1] + n)))
    case.place("x", x)
    case.constant("weight", packed)
    k = x.shape[1]
    case.args |= {"x_bf16": 0, "x_stride": k, "norm": 0, "eps": 0, "k": k, "k_tiles": up(k, 32) // 32, "bias": 0}
    case.args |= {"n_tiles": up(n, 16) // 16, "task_tiles": task_tiles, "format": format, "n": n}
    case.args |= {"out_bf16": 0, "out_stride": n, "residual": -1}
    case.output("out", (n,), np.float32)
    return case


def normal(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


one_term = st.sampled_from([FP8, MXFP4, *(number for number in INTEGERS if number not in IN_TERMS)])


@for_cases(100, rows=rows, k=depths, n=widths, tiles=tiles, format=one_term, far=st.booleans(), seed=seeds)
def test_product_is_that_of_the_expanded_weight(isa, rows, k, n, tiles, format, far, seed):
    random = np.random.default_rng(seed)
    x = normal(random, rows, k)
    packed = formats.random_weight(format, n, k, random, far)
    expanded = pack_weight(formats.values(packed, format, n, k))
    native = linear(x, packed, format, n, tiles).run(isa)["out"]
    np.testing.assert_array_equal(native, linear(x, expanded, BF16, n, tiles).run(isa)["out"])


@for_cases(80, rows=rows, k=depths, n=widths, tiles=tiles, format=st.sampled_from(IN_TERMS), seed=seeds)
def test_f16_product_is_that_of_two_bf16_terms(isa, rows, k, n, tiles, format, seed):
    """Of each 128 k first the high terms, then the low ones."""
    random = np.random.default_rng(seed)
    x = normal(random, rows, k)
    packed = formats.random_weight(format, n, k, random)
    w = formats.values(packed, format, n, k)
    assert np.array_equal(w, w.astype(np.float16))
    high = (w.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    low = w - high
    assert np.array_equal(low, from_bf16(to_bf16(low)))
    starts = range(0, up(k, 32), 128)
    whole = [np.pad(part, ((0, 0), (0, up(k, 32) - k))) for part in (x, high, low)]
    x2 = np.concatenate([whole[0][:, [*range(i, min(i + 128, up(k, 32)))] * 2] for i in starts], 1)
    w2 = np.concatenate([part[:, i : i + 128] for i in starts for part in whole[1:]], 1)
    native = linear(x, packed, format, n, tiles).run(isa)["out"]
    np.testing.assert_array_equal(native, linear(x2, pack_weight(w2), BF16, n, tiles).run(isa)["out"])
    exact = from_bf16(to_bf16(x)).astype(np.float64) @ w.T
    bound = (2 * k + 4) * 2.0**-23 * (np.abs(x).astype(np.float64) @ np.abs(w).T) * 1.01
    assert (np.abs(native - exact) <= bound).all()


@each_isa
@pytest.mark.parametrize("format", [F16, FP8, MXFP4, BF12, *BLOCKED, *INTEGERS])
def test_row_does_not_depend_on_other_rows(isa, format):
    random = np.random.default_rng(format)
    x, packed = normal(random, 64, 330), formats.random_weight(format, 150, 330, random)
    whole = linear(x, packed, format, 150, 4).run(isa)["out"]
    for count in range(1, 64):
        part = linear(x[64 - count :], packed, format, 150, 4).run(isa)["out"]
        np.testing.assert_array_equal(part, whole[64 - count :], err_msg=f"{count} rows")


@each_isa
@pytest.mark.parametrize("format", [F16, FP8, MXFP4])
def test_every_code(isa, format):
    """One-hot rows pick out each weight exactly; of F16 both terms add up to it."""
    codes = np.arange(16 * 64 if format == F16 else 256)
    if format == F16:
        w = np.random.default_rng(0).permutation(2**15)[: 32 * 32].astype(np.uint16) * 2
        packed = formats.pack_f16(
            np.where(w & 0x7C00 == 0x7C00, w & 0x3FF, w).astype(np.uint16).view(np.float16).reshape(32, 32)
        )
    elif format == FP8:
        packed = formats.pack_fp8(codes.astype(np.uint8).reshape(8, 32), np.full((8, 1), 0.375, np.float32))
    else:
        packed = formats.pack_mxfp4(
            (codes % 16).astype(np.uint8).reshape(8, 32), np.arange(120, 128, dtype=np.uint8)[:, None]
        )
    n = 32 if format == F16 else 8
    w = formats.values(packed, format, n, 32)
    finite = np.where(np.isnan(w), 0, w)
    native = linear(np.eye(32, dtype=np.float32), packed, format, n, 4).run(isa)["out"]
    has_nan = np.isnan(w).any(1)
    np.testing.assert_array_equal(native[:, ~has_nan], finite.T[:, ~has_nan])
    assert np.isnan(native[:, has_nan]).all()


@each_isa
@pytest.mark.parametrize("format", INTEGERS)
def test_every_code_of_integers(isa, format):
    """One-hot rows pick out every code, with every zero, exactly."""
    record, random = NUMBERED[format], np.random.default_rng(format)
    codes = np.tile(np.arange(256, dtype=np.uint8) & (1 << record.bits) - 1, (48, 1))
    groups = (48, 256 // record.k_per_scale)
    scales = random.uniform(0.5, 2, groups) * 2.0 ** random.integers(-26, 4, groups)
    parts = {"scale": to_bf16(scales) if record.scale == np.uint16 else scales.astype(np.float16).view(np.uint16)}
    half, zeros = 1 << record.bits - 1, np.full(groups, 0)
    if record.zero:
        zeros = np.linspace(-half, half - 1, zeros.size).round().astype(int).reshape(groups)
        parts["zero"] = zeros.astype(np.int8).view(np.uint8)
    packed = formats.pack_parts(record, codes, parts)
    worth = from_bf16(parts["scale"]) if record.scale == np.uint16 else parts["scale"].view(np.float16)
    each = [np.repeat(numbers, record.k_per_scale, 1) for numbers in (zeros, worth.astype(np.float32))]
    exact = (codes.astype(np.float32) - half - each[0]) * each[1]
    expected = exact.astype(np.float16).astype(np.float32) if format in IN_TERMS else from_bf16(to_bf16(exact))
    np.testing.assert_array_equal(formats.values(packed, format, 48, 256), expected)
    for first in range(0, 256, 64):
        native = linear(np.eye(256, dtype=np.float32)[first : first + 64], packed, format, 48, 4).run(isa)["out"]
        np.testing.assert_array_equal(native, expected.T[first : first + 64])
    one = linear(np.eye(256, dtype=np.float32)[255:], packed, format, 48, 4).run(isa)["out"]
    np.testing.assert_array_equal(one, expected.T[255:])


@each_isa
def test_nan_passes_through(isa):
    """A NaN code, and a NaN scale, reach the columns that they are in and no other."""
    random = np.random.default_rng(2)
    codes, scales = random.integers(0, 120, (40, 256), np.uint8), np.full((40, 2), 0.01, np.float32)
    codes[3, 200], codes[21, 7], scales[30, 1] = 0x7F, 0xFF, np.nan
    native = linear(normal(random, 5, 256), formats.pack_fp8(codes, scales), FP8, 40, 4).run(isa)["out"]
    assert np.flatnonzero(np.isnan(native).any(0)).tolist() == [3, 21, 30]
    assert np.isnan(native[:, [3, 21, 30]]).all()


@pytest.mark.oracle
def test_codes_are_those_of_torch():
    import torch

    codes = torch.arange(256, dtype=torch.uint8)
    np.testing.assert_array_equal(E4M3, codes.view(torch.float8_e4m3fn).float().numpy())
    exponents = torch.arange(1, 255)
    np.testing.assert_array_equal(e8m0(exponents.numpy()), torch.ldexp(torch.ones(254), exponents - 127).numpy())


@for_cases(20, rows=rows, width=depths, format=st.sampled_from([BF16, F16, FP8, MXFP4, *BLOCKED]), seed=seeds)
def test_embed(isa, rows, width, format, seed):
    random = np.random.default_rng(seed)
    packed = formats.random_weight(format, 70, width, random)
    case = Case("embed", rows)
    case.constant("table", packed)
    case.step.tokens = random.integers(0, 70, rows).astype(np.int32)
    case.args |= {"width": width, "k_tiles": up(width, 32) // 32, "vocab": 70, "scale": 1.5, "format": format}
    case.output("out", (width,), np.float32)
    expected = formats.values(packed, format, 70, width)[case.step.tokens] * np.float32(1.5)
    np.testing.assert_array_equal(case.run(isa)["out"], expected)
    np.testing.assert_array_equal(case.run(None)["out"], expected)


@for_cases(
    30,
    rows=rows,
    sizes=st.sampled_from([(3, 32, 40), (2, 128, 16), (4, 24, 24), (5, 70, 8)]),
    format=st.sampled_from([BF16, F16, FP8, MXFP4, *BLOCKED]),
    x_bf16=st.booleans(),
    out_bf16=st.booleans(),
    tiles=st.integers(1, 3),
    seed=seeds,
)
def test_head_linear(isa, rows, sizes, format, x_bf16, out_bf16, tiles, seed):
    heads, k, n = sizes
    random = np.random.default_rng(seed)
    bank = [formats.random_weight(format, n, k, random) for _ in range(heads)]
    case = Case("head_linear", rows)
    x = random.integers(-4, 5, (rows, heads, k + 8)).astype(np.float32)
    case.place("x", to_bf16(x) if x_bf16 else x)
    first, head_stride, pad = 3, n + 5, 6 * out_bf16
    width = heads * head_stride + 8
    case.constant("weight", np.concatenate([weight.reshape(-1).view(np.uint8) for weight in bank]))
    case.args |= {"x_bf16": int(x_bf16), "x_stride": heads * (k + 8), "norm": 0, "eps": 0, "k": k, "bias": 0}
    case.args |= {"k_tiles": up(k, 32) // 32, "n_tiles": up(n, 16) // 16, "task_tiles": tiles, "format": format}
    case.args |= {"x_group_stride": k + 8, "heads": heads, "bank_stride": bank[0].nbytes, "n": n, "pad": pad}
    case.args |= {"out_bf16": int(out_bf16), "out_stride": width, "out_group_stride": head_stride}
    case.output("out", (width,), np.uint16 if out_bf16 else np.float32)
    case.args["out"] += first * case.outputs["out"].itemsize
    before = case.outputs["out"].copy()
    native, reference = case.run(isa)["out"], case.run(None)["out"]
    own = np.zeros(width, bool)
    for head in range(heads):
        columns = slice(head * head_stride + first, head * head_stride + first + n)
        own[columns] = True
        y = from_bf16(native[:, columns]) if out_bf16 else native[:, columns]
        w = formats.values(bank[head], format, n, k)
        exact = x[:, head, :k].astype(np.float64) @ w.T
        bound = (2 * k + 4) * 2.0**-23 * (np.abs(x[:, head, :k]) @ np.abs(w).T) + out_bf16 * 2.0**-8 * np.abs(exact)
        assert (np.abs(y - exact) <= bound).all()
        expected = from_bf16(reference[:, columns]) if out_bf16 else reference[:, columns]
        assert (np.abs(expected - exact) <= bound).all()
    last = (heads - 1) * head_stride + first + n
    own[last : last + pad] = True
    assert (native[:, last : last + pad] == 0).all()
    bits = f"u{native.itemsize}"
    for result in (native, reference):
        np.testing.assert_array_equal(result[:, ~own].view(bits), before[:, ~own].view(bits))


def test_scratch_of_a_format_holds_the_expanded_tiles():
    fields = dict.fromkeys(contract.FIELDS["linear"], 0) | {"k_tiles": 3, "task_tiles": 8}
    wide = RECORDS["linear"].scratch_bytes(fields | {"format": FP8}, 32)
    assert wide - RECORDS["linear"].scratch_bytes(fields, 32) == contract.EXPAND_BYTES
    assert Memory(wide).address % 64 == 0


@each_isa
@pytest.mark.parametrize("count, k", [(40, 8257), (256, 1111)])
@pytest.mark.parametrize("format", [F16, FP8, MXFP4, BF12, *BLOCKED[:1], *INTEGERS[:1]])
def test_product_of_many_rows_or_deep_weights(isa, format, count, k):
    """AMX passes over both in other parts of k, or in another order."""
    random = np.random.default_rng(format)
    x, packed = normal(random, count, k), formats.random_weight(format, 40, k, random)
    whole = linear(x, packed, format, 40, 3).run(isa)["out"]
    np.testing.assert_array_equal(whole[:16], linear(x[:16], packed, format, 40, 3).run(isa)["out"])
    if format not in IN_TERMS:
        expanded = pack_weight(formats.values(packed, format, 40, k))
        np.testing.assert_array_equal(whole, linear(x, expanded, BF16, 40, 3).run(isa)["out"])
