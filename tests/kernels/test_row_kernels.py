"""Kernels that read and write activations row by row, against their references."""

import importlib

import numpy as np
from harness import Case, bf16_ulps, each_isa, for_cases, pack_weight, up
from hypothesis import strategies as st

from ellm.kernels import contract, layout, reference
from ellm.kernels.layout import read_keys, read_keys_int8, read_values, read_values_int8, to_bf16

rows = st.integers(1, 64)
widths = st.sampled_from([1, 7, 16, 24, 33, 80, 150])
seeds = st.integers(0, 2**32 - 1)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def integers(seed: int, low: int, high: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, size).astype(np.int32)


def same_bits(case: Case, isa: str) -> None:
    """The kernel computes what its reference does, bit by bit."""
    native, expected = case.run(isa), case.run(None)
    for name in expected:
        bits = f"u{expected[name].itemsize}"
        np.testing.assert_array_equal(native[name].view(bits), expected[name].view(bits))


@each_isa
def test_every_kernel_has_an_address_and_a_reference(isa):
    addresses = importlib.import_module(f"ellm.kernels._{isa}").ADDRESSES
    assert addresses.keys() == contract.FIELDS.keys() == reference.KERNELS.keys()


def embedding(rows: int, width: int, vocab: int, scale: float, seed: int) -> Case:
    case = Case("embed", rows, block=1, blocks=2)
    case.constant("table", pack_weight(normal(seed, vocab, width)))
    case.step.tokens = integers(seed, 0, vocab, 64 + rows)
    case.args |= {"width": width, "k_tiles": up(width, 32) // 32, "vocab": vocab, "scale": scale, "format": 0}
    case.output("out", (width,), np.float32)
    return case


@for_cases(20, rows=rows, width=widths, vocab=st.integers(1, 70), scale=st.sampled_from([1.0, 12.25]), seed=seeds)
def test_embed(isa, **drawn):
    same_bits(embedding(**drawn), isa)


@for_cases(10, rows=rows, width=widths, seed=seeds)
def test_input_rows(isa, rows, width, seed):
    case = Case("input_rows", rows, block=1, blocks=2)
    case.step.input_rows = normal(seed, 64 + rows, width)
    case.args["width"] = width
    case.output("out", (width,), np.float32)
    same_bits(case, isa)
    np.testing.assert_array_equal(case.run(None)["out"], case.step.input_rows[64:])


@each_isa
def test_embed_reports_a_token_outside_the_vocabulary(isa):
    for token in (-1, 20):
        case = embedding(rows=3, width=24, vocab=20, scale=1.0, seed=0)
        case.step.tokens[64 + 1] = token
        assert case.run_native(isa) != 0


@for_cases(20, rows=rows, half=st.sampled_from([1, 5, 12, 32, 40]), far=st.sampled_from([1, 4096, 2**20]), seed=seeds)
def test_angles(isa, rows, half, far, seed):
    case = Case("angles", rows, block=1, blocks=2)
    case.constant("inv_freq", (1e4 ** -(np.arange(half) / half)).astype(np.float32))
    case.step.positions = integers(seed, 0, far, 64 + rows)
    case.args |= {"half": half, "factor": 1.25}
    case.output("out", (half, 2), np.float32)
    np.testing.assert_array_max_ulp(case.run(isa)["out"], case.run(None)["out"], maxulp=1)


@for_cases(10, rows=st.integers(1, 16), width=widths, seed=seeds)
def test_gather(isa, rows, width, seed):
    case = Case("gather", rows, row_block=16, block=1, blocks=3)
    case.args |= {"x": case.reserve(4 * width), "width": width}
    for block in range(3):
        x = case.arena.view((16, width), np.float32, block * case.section_bytes + case.args["x"])
        x[:] = normal(seed + block, 16, width)
    case.step.logit_row = np.sort(integers(seed, 0, 48, 16 + rows))
    case.output("out", (width,), np.float32)
    same_bits(case, isa)


gaps = st.integers(0, 9)


def grouped(kernel: str, rows: int, groups: int, width: int, gap: int, bf16: bool, seed: int, scale: float = 1) -> Case:
    """A case of groups of columns in rows that have more: `gap` before each of x, of `out` as many on both sides."""
    case = Case(kernel, rows, block=1, blocks=2)
    stride = groups * (gap + width)
    case.place("x", normal(seed, rows, stride) * np.float32(scale))
    case.args["x"] += 4 * gap
    case.args |= {"x_stride": stride, "x_group_stride": gap + width}
    end = groups * (width + 2 * gap) - gap
    case.output("out", (up(end + 1, 32),), np.uint16 if bf16 else np.float32)
    case.args["out"] += gap * (2 if bf16 else 4)
    case.args |= {"out_bf16": int(bf16), "out_stride": up(end + 1, 32), "out_group_stride": width + 2 * gap}
    case.args["pad"] = up(end + 1, 32) - end if bf16 else 0
    return case


def padded(case: Case, out: np.ndarray) -> bool:
    """Whether what pads rows is zero."""
    return not out[:, out.shape[1] - case.args["pad"] :].any()


@for_cases(
    25,
    rows=rows,
    groups=st.integers(1, 3),
    width=widths,
    gap=gaps,
    bf16=st.booleans(),
    large=st.booleans(),
    tasks=st.sampled_from([1, 4, 16]),
    seed=seeds,
)
def test_rms_norm(isa, rows, groups, width, gap, bf16, large, tasks, seed):
    case = grouped("rms_norm", rows, groups, width, gap, bf16, seed, 1e4 if large else 1e-2)
    case.constant("weight", normal(seed + 1, width))
    case.args |= {"groups": groups, "width": width, "eps": 1e-5, "tasks": tasks}
    native, expected = case.run(isa)["out"], case.run(None)["out"]
    assert padded(case, native)
    if bf16:
        assert bf16_ulps(native, expected).max() <= 1  # where f32 and exact arithmetic fall on two sides of a tie
        assert (native != expected).mean() < 0.01
    else:
        np.testing.assert_allclose(native, expected, rtol=2e-6)


rotations = st.sampled_from([(24, 24), (40, 20), (80, 80), (128, 128)])


@for_cases(
    40,
    rows=rows,
    heads=st.integers(1, 5),
    dims=rotations,
    gap=gaps,
    bf16=st.booleans(),
    interleaved=st.booleans(),
    task_heads=st.integers(1, 3),
    seed=seeds,
)
def test_rope(isa, rows, heads, dims, gap, bf16, interleaved, task_heads, seed):
    case = grouped("rope", rows, heads, dims[0], gap, bf16, seed)
    turn = normal(seed + 1, rows, dims[1] // 2)
    case.place("angles", np.stack((np.cos(turn), np.sin(turn)), -1))
    case.args |= {"heads": heads, "head_dim": dims[0], "rotary": dims[1], "interleaved": int(interleaved)}
    case.args["task_heads"] = task_heads
    native, expected = case.run(isa)["out"], case.run(None)["out"]
    assert padded(case, native)
    if not interleaved:
        same_bits(case, isa)
    elif bf16:
        assert bf16_ulps(native, expected).max() <= 1
    else:  # by FMA
        np.testing.assert_allclose(native, expected, rtol=1e-6, atol=1e-6)


@for_cases(15, rows=rows, width=widths, seed=seeds)
def test_swiglu(isa, rows, width, seed):
    case = Case("swiglu", rows)
    case.place("gate", 10 * normal(seed, rows, width))
    case.place("up", normal(seed + 1, rows, width))
    case.args["width"] = width
    case.output("out", (width,), np.float32)
    np.testing.assert_allclose(case.run(isa)["out"], case.run(None)["out"], rtol=1e-6, atol=1e-36)


@each_isa
def test_silu_is_accurate_everywhere(isa):
    """e^x within 2 ulp leaves silu within 4; below -87 it may be flushed to zero."""
    gate = np.concatenate((np.linspace(-120, 120, 2000), [0, -0.0, np.inf, 1e-30, -1e-30, 88.7, 3e38]))
    case = Case("swiglu", 1, row_block=16)
    case.place("gate", gate.astype(np.float32)[None])
    case.place("up", np.ones((1, len(gate)), np.float32))
    case.args["width"] = len(gate)
    case.output("out", (len(gate),), np.float32)
    np.testing.assert_allclose(case.run(isa)["out"], case.run(None)["out"], rtol=4 * 2.0**-24, atol=2e-36)


@for_cases(15, rows=rows, width=widths, seed=seeds)
def test_add(isa, rows, width, seed):
    for field in ("a", "b", None):
        case = Case("add", rows)
        case.args["width"] = width
        case.output("out", (width,), np.float32)
        case.outputs["out"][:] = normal(seed, rows, width)
        for i, name in enumerate(("a", "b")):
            if name == field:
                case.args[name] = case.args["out"]
            else:
                case.place(name, normal(seed + i, rows, width))
        same_bits(case, isa)


@each_isa
def test_rope_turns_the_pairs_of_its_order(isa):
    """A quarter turn takes (a, b) to (-b, a)."""
    expected = {0: [-2, -3, 0, 1, 4], 1: [-1, 0, -3, 2, 4]}
    for interleaved, turned in expected.items():
        case = grouped("rope", 1, groups=1, width=5, gap=0, bf16=False, seed=0)
        case.place("x", np.arange(5, dtype=np.float32)[None])
        case.place("angles", np.float32([[0, 1, 0, 1]]))
        case.args |= {"heads": 1, "head_dim": 5, "rotary": 4, "interleaved": interleaved, "task_heads": 1}
        assert case.run(isa)["out"][0, :5].tolist() == turned


@for_cases(
    25,
    rows=rows,
    groups=st.integers(1, 5),
    width=widths,
    gap=gaps,
    bf16=st.booleans(),
    task_groups=st.integers(1, 3),
    seed=seeds,
)
def test_copy(isa, rows, groups, width, gap, bf16, task_groups, seed):
    case = grouped("copy", rows, groups, width, gap, bf16, seed)
    case.args |= {"groups": groups, "width": width, "task_groups": task_groups}
    same_bits(case, isa)
    assert padded(case, case.run(isa)["out"])


@each_isa
def test_copy_rounds_every_kind_of_number_to_bf16(isa):
    """Ties, subnormal numbers, what rounds to infinity, infinities and NaNs, among ordinary numbers and alone."""
    kinds = np.array([0x3F808000, 0x3F818000, 0x00000001, 0x807FFFFF, 0x00808000, 0x7F7FFFFF, 0x7F800000, 0xFF800000,
                      0x7F800001, 0xFFC12345, 0x80000000], np.uint32)  # fmt: skip
    x = normal(1, 2 * len(kinds), 70)
    for row, kind in enumerate(kinds):
        x[2 * row].view(np.uint32)[:] = kind
        x[2 * row + 1].view(np.uint32)[[row, 40, 69]] = kind
    case = grouped("copy", len(x), groups=1, width=70, gap=0, bf16=True, seed=0)
    case.place("x", x)
    case.args |= {"groups": 1, "width": 70, "task_groups": 1}
    same_bits(case, isa)


def cache_case(rows: int, kv_heads: int, head_dim: int, value_dim: int, seed: int) -> Case:
    """Rows of two sequences, at positions that cross tiles and blocks."""
    case = Case("append", rows, block=1, blocks=2)
    case.args |= {"kv_heads": kv_heads, "head_dim": head_dim, "value_dim": value_dim, "keys": 128, "int8": 0}
    case.args["key_stride"] = 2 * 512 * up(head_dim, 32) + 64
    case.args["values"] = 128 + kv_heads * case.args["key_stride"]
    case.args["value_stride"] = 2 * 512 * up(value_dim, 16) + 128
    size = case.args["values"] + kv_heads * case.args["value_stride"] + 64
    cached = [case.written(f"block {i}", (size // 2,), np.uint16) for i in range(4)]
    for i, view in enumerate(cached):
        view[:] = to_bf16(normal(seed + i, size // 2))
    case.step.blocks = np.array([view.ctypes.data for view in cached], np.uint64).reshape(2, 2)
    case.step.context_blocks = 2
    first = rows // 3
    begin = integers(seed, 0, 900, 2)
    positions = np.concatenate((begin[0] + np.arange(first), begin[1] + np.arange(rows - first)))
    case.step.positions = np.concatenate((np.zeros(64), positions)).astype(np.int32)
    case.step.slots = np.array([0] * (64 + first) + [1] * (rows - first), np.int32)
    return case


head_dims = st.sampled_from([24, 40, 64, 80])


@for_cases(
    20, rows=rows, kv_heads=st.integers(1, 3), dims=st.tuples(head_dims, head_dims), apart=st.booleans(), seed=seeds
)
def test_append(isa, rows, kv_heads, dims, apart, seed):
    case = cache_case(rows, kv_heads, *dims, seed)
    case.place("k", normal(seed, rows, kv_heads, dims[0]))
    case.args |= {"v": -1, "values_in_keys": int(not apart)}
    if apart:
        case.place("v", normal(seed + 1, rows, kv_heads, dims[1]))
    same_bits(case, isa)


@for_cases(15, rows=rows, kv_heads=st.integers(1, 3), dims=st.sampled_from([(32, 24), (64, 64), (128, 40)]), seed=seeds)
def test_append_in_int8(isa, rows, kv_heads, dims, seed):
    case = cache_case(rows, kv_heads, *dims, seed)
    k, v = normal(seed, rows, kv_heads, dims[0]), normal(seed + 1, rows, kv_heads, dims[1])
    k[0], v[-1] = 0, 0
    case.place("k", k)
    case.args |= {"values_in_keys": 0, "int8": 1}
    case.place("v", v)
    same_bits(case, isa)


@each_isa
def test_int8_gives_back_what_was_appended(isa):
    """Up to half a code: of a value as it is, of a key, whose large dim is spread over all of them, turned back."""
    case = cache_case(1, 1, 64, 64, seed=0)
    case.args |= {"values_in_keys": 0, "int8": 1}
    k, v = normal(1, 1, 1, 64), normal(2, 1, 1, 64)
    k[0, 0, 5] = 100
    case.place("k", k)
    case.place("v", v)
    block, position = divmod(int(case.step.positions[-1]), 512)
    cached = case.run(isa)[f"block {2 + block}"]
    keys = read_keys_int8(cached.ctypes.data + case.args["keys"], position + 1, 64)[-1:]
    codes, scales = read_values_int8(cached.ctypes.data + case.args["values"], position + 1, 64)
    # 64 errors of half of the scale, which is about 100 / 8 / 127, over 8: four scales at most, one in practice.
    assert np.abs(layout.turned(keys)[0] - k[0, 0]).max() <= 4 * 1.2 * 100 / 8 / 127
    assert np.abs(codes[-1] * scales[-1] - v[0, 0]).max() <= 0.51 * np.abs(v).max() / 127


@each_isa
def test_append_rounds_to_nearest_even_and_keeps_nan(isa):
    bits = {
        0x3F808000: 0x3F80,  # a tie: to even, down
        0x3F818000: 0x3F82,  # a tie: to even, up
        0x3F808001: 0x3F81,
        0x3F807FFF: 0x3F80,
        0x7F7FFFFF: 0x7F80,  # the largest f32 rounds to infinity
        0x7F800000: 0x7F80,
        0xFF800000: 0xFF80,
        0x7F800001: 0x7FC0,  # truncation would make this NaN an infinity
        0xFFC00000: 0xFFC0,
        0x80000000: 0x8000,
        0x00000001: 0x0000,
        0x00018000: 0x0002,  # subnormal
    }
    head_dim = len(bits)
    case = cache_case(1, 1, head_dim, head_dim, seed=0)
    case.args["values_in_keys"] = 0
    values = np.array(list(bits), np.uint32).view(np.float32).reshape(1, 1, head_dim)
    case.place("k", values)
    case.place("v", values)
    block, position = divmod(int(case.step.positions[-1]), 512)
    cached = case.run(isa)[f"block {2 + block}"]
    keys = read_keys(cached.ctypes.data + case.args["keys"], position + 1, head_dim)[-1]
    stored = read_values(cached.ctypes.data + case.args["values"], position + 1, head_dim)[-1]
    for row in (keys, stored):
        assert (row.view(np.uint32) >> 16).tolist() == list(bits.values())
