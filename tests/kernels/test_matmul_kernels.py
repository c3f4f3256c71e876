"""linear, logits, gate_up and qkv against their references.

Inputs are either small integers, whose products add up exactly in f32 whatever the order, so that results must be equal
bit by bit, or normal numbers, with a bound on the error: n additions in f32 are within n 2^-24 of the sum of absolute
products, doubled here for the product pairs of bf16 instructions. A fused norm is rounded to bf16, and where it lies on
a tie it may go either way: the bound allows four such operands a row, each one bf16 ulp (2^-7) apart.
"""

import copy

import numpy as np
from harness import Case, bf16_ulps, for_cases, pack_weight, up
from hypothesis import strategies as st

from ellm.kernels.layout import from_bf16, to_bf16

rows = st.integers(1, 64)
depths = st.sampled_from([1, 24, 40, 64, 97, 200, 320])
widths = st.sampled_from([1, 16, 24, 40, 70, 130])
task_tiles = st.integers(1, 4)
inputs = st.sampled_from(["integers", "bf16", "f32", "norm"])
seeds = st.integers(0, 2**32 - 1)


class Product:
    """x [rows, k] and w [n, k] of one kind of inputs, and what the sums may be off by."""

    def __init__(self, kind: str, rows: int, k: int, n: int, bias: bool, seed: int):
        random = np.random.default_rng(seed)
        self.kind, self.k, self.n = kind, k, n
        if kind == "integers":
            self.x, self.w = (random.integers(-4, 5, (size, k)).astype(np.float32) for size in (rows, n))
            self.bias = random.integers(-9, 10, n).astype(np.float32)
        else:
            self.x, self.w = (random.standard_normal((size, k)).astype(np.float32) for size in (rows, n))
            self.bias = random.standard_normal(n).astype(np.float32)
        if not bias:
            self.bias = None
        self.gain = random.uniform(0.5, 2, k).astype(np.float32) if kind == "norm" else None

    def part(self, rows: slice) -> "Product":
        """The same product for some of its rows."""
        part = copy.copy(self)
        part.x = self.x[rows]
        return part

    def place(self, case: Case, columns: np.ndarray, task_tiles: int) -> None:
        """Packed column c of the weight is row columns[c] of w, zero for -1."""
        x = self.x if self.kind in ("f32", "norm") else to_bf16(self.x)
        stride = self.k if x.dtype == np.float32 else up(self.k, 32)
        case.place("x", x, stride)
        padded = np.concatenate((self.w, np.zeros((1, self.k), np.float32)))
        case.constant("weight", pack_weight(padded[columns]))
        case.constant("bias", None if self.bias is None else np.append(self.bias, np.float32(0))[columns])
        case.constant("norm", self.gain)
        case.args |= {"x_bf16": int(x.dtype == np.uint16), "x_stride": stride, "eps": 1e-6, "k": self.k}
        case.args |= {"k_tiles": up(self.k, 32) // 32, "n_tiles": len(columns) // 16, "task_tiles": task_tiles}
        case.args["format"] = 0

    def bound(self) -> np.ndarray:
        """[rows, n]: the most that a sum may be off."""
        if self.kind == "integers":
            return np.zeros((len(self.x), self.n))
        a, w = np.abs(self.x).astype(np.float64), np.abs(from_bf16(to_bf16(self.w))).astype(np.float64)
        flips = np.zeros((len(a), self.n))
        if self.kind == "norm":
            a = a / np.sqrt((a**2).mean(1, keepdims=True)) * self.gain
            flips = 4 * 2.0**-7 * (a[:, None, :] * w[None]).max(2)
        bias = 0 if self.bias is None else np.abs(self.bias)
        return (self.k + 4) * 2.0**-23 * (a @ w.T + bias) + flips


def columns_of(n: int) -> np.ndarray:
    return np.append(np.arange(n), np.full(-n % 16, -1))


def make_linear(product: Product, row: slice, tiles: int, out: str, seed: int) -> Case:
    part = product.part(row)
    case = Case("linear", len(part.x), row_block=64)
    part.place(case, columns_of(product.n), tiles)
    case.args |= {"n": product.n, "out_bf16": int(out == "bf16"), "residual": -1}
    case.args["out_stride"] = up(product.n, 32) if out == "bf16" else product.n
    case.output("out", (case.args["out_stride"],), np.uint16 if out == "bf16" else np.float32)
    residual = np.random.default_rng(seed).integers(-99, 99, (*product.x.shape[:1], product.n)).astype(np.float32)[row]
    if out == "residual":
        case.place("residual", residual)
    if out == "in place":
        case.outputs["out"][:] = residual
        case.args["residual"] = case.args["out"]
    return case


outs = st.sampled_from(["f32", "bf16", "residual", "in place"])


@for_cases(60, kind=inputs, rows=rows, k=depths, n=widths, bias=st.booleans(), tiles=task_tiles, out=outs, seed=seeds)
def test_linear(isa, kind, rows, k, n, bias, tiles, out, seed):
    product = Product(kind, rows, k, n, bias, seed)
    case = make_linear(product, slice(None), tiles, out, seed)
    native, reference = case.run(isa)["out"], case.run(None)["out"]
    if out == "bf16":
        assert (native[:, n:] == 0).all()
        y, expected = from_bf16(native[:, :n]), from_bf16(reference[:, :n])
        rounding = 2.0**-7 * np.abs(expected)
    else:
        y, expected, rounding = native, reference, 2.0**-23 * (np.abs(reference) + 99)
    bound = product.bound()
    assert (np.abs(y - expected) <= bound + rounding * (bound > 0)).all()
    for r in {0, rows - 1, seed % rows}:
        alone = make_linear(product, slice(r, r + 1), tiles, out, seed).run(isa)["out"]
        np.testing.assert_array_equal(alone[0], native[r])


@for_cases(
    20, kind=inputs, rows=st.integers(1, 16), k=depths, n=widths, bias=st.booleans(), tiles=task_tiles, seed=seeds
)
def test_logits(isa, kind, rows, k, n, bias, tiles, seed):
    product = Product(kind, rows, k, n, bias, seed)
    case = Case("logits", rows, row_block=16, block=1, blocks=2)
    product.place(case, columns_of(n), tiles)
    case.args["n"] = n
    case.step.logits = case.written("logits", (16 + rows, n), np.float32)
    native, reference = case.run(isa)["logits"], case.run(None)["logits"]
    assert np.isnan(native[:16]).all()
    assert (np.abs(native[16:] - reference[16:]) <= product.bound()).all()


def make_gate_up(product: Product, row: slice, n: int, tiles: int) -> Case:
    part = product.part(row)
    case = Case("gate_up", len(part.x))
    gate = columns_of(n).reshape(-1, 16)
    up_columns = np.where(gate < 0, -1, gate + n)
    part.place(case, np.stack((gate, up_columns), 1).reshape(-1), 2 * tiles)
    case.args |= {"n": n, "out_bf16": 1, "out_stride": up(n, 32)}
    case.output("out", (up(n, 32),), np.uint16)
    return case


@for_cases(30, rows=rows, k=depths, n=widths, bias=st.booleans(), tiles=task_tiles, seed=seeds)
def test_gate_up(isa, rows, k, n, bias, tiles, seed):
    product = Product("integers", rows, k, 2 * n, bias, seed)
    product.w /= 16
    native = make_gate_up(product, slice(None), n, tiles).run(isa)["out"]
    reference = make_gate_up(product, slice(None), n, tiles).run(None)["out"]
    assert (native[:, n:] == 0).all()
    assert (bf16_ulps(native, reference) <= 1).all()  # silu may fall on the other side of a tie
    assert (native != reference).mean() < 0.01
    for r in {0, rows - 1}:
        alone = make_gate_up(product, slice(r, r + 1), n, tiles).run(isa)["out"]
        np.testing.assert_array_equal(alone[0], native[r])


def make_qkv(
    rows: int, k: int, heads: tuple[int, int], head_dim: int, task_heads: int, options: dict, seed: int
) -> Case:
    """Rows of two sequences, at positions that cross blocks."""
    random = np.random.default_rng(seed)
    all_heads, head_tiles = heads[0] + 2 * heads[1], -(-head_dim // 16)
    product = Product("integers", rows, k, all_heads * head_dim, options["bias"], seed)
    columns = np.full((all_heads, 16 * head_tiles), -1)
    columns[:, :head_dim] = np.arange(all_heads * head_dim).reshape(all_heads, head_dim)
    case = Case("qkv", rows)
    product.place(case, columns.reshape(-1), task_heads * head_tiles)
    norms = random.uniform(0.5, 2, (2, head_dim)).astype(np.float32)
    case.constant("q_norm", norms[0] if options["norm"] else None)
    case.constant("k_norm", norms[1] if options["norm"] else None)
    case.args |= {"task_heads": task_heads, "heads": heads[0], "kv_heads": heads[1], "head_dim": head_dim}
    case.args |= {"head_tiles": head_tiles, "head_eps": 1e-6, "angles": -1, "rotary": options["rotary"]}
    if options["rotary"]:
        turn = random.standard_normal((rows, options["rotary"] // 2))
        case.place("angles", np.stack((np.cos(turn), np.sin(turn)), -1).astype(np.float32))
    case.args |= {"q_width": up(head_dim, 32), "int8": int(options.get("int8", False))}
    case.output("q", (heads[0], up(head_dim, 32)), np.uint16)
    key_bytes, value_bytes = (2 * 512 * up(head_dim, tile) for tile in (32, 16))
    case.args |= {"keys": 64, "key_stride": key_bytes, "values": 64 + heads[1] * key_bytes, "value_stride": value_bytes}
    size = 64 + heads[1] * (key_bytes + value_bytes)
    cached = [case.written(f"block {i}", (size // 2,), np.uint16) for i in range(4)]
    for view in cached:
        view[:] = to_bf16(random.standard_normal(size // 2).astype(np.float32))
    case.step.blocks = np.array([[view.ctypes.data for view in two] for two in (cached[:2], cached[2:])], np.uint64)
    case.step.context_blocks = 2
    case.step.slots = (np.arange(rows) >= rows // 2).astype(np.int32)
    case.step.positions = (np.arange(rows) + random.integers(0, 1024 - rows)).astype(np.int32)
    return case


@for_cases(
    40,
    rows=rows,
    k=depths,
    heads=st.sampled_from([(1, 1), (2, 1), (3, 1), (4, 2), (7, 1), (3, 3)]),
    dims=st.sampled_from([(24, 24), (24, 0), (40, 20), (64, 64), (80, 80)]),
    task_heads=st.integers(1, 3),
    norm=st.booleans(),
    bias=st.booleans(),
    seed=seeds,
)
def test_qkv(isa, rows, k, heads, dims, task_heads, norm, bias, seed):
    options = {"norm": norm, "bias": bias, "rotary": dims[1]}
    case = make_qkv(rows, k, heads, dims[0], task_heads, options, seed)
    before = {name: view.copy() for name, view in case.outputs.items()}
    native, reference = case.run(isa), case.run(None)
    assert (native["q"][:, :, dims[0] :] == 0).all()
    for name in reference:
        untouched = reference[name] == before[name]
        np.testing.assert_array_equal(native[name][untouched], reference[name][untouched])
        y, expected = from_bf16(native[name]), from_bf16(reference[name])
        if norm or dims[1]:  # f32 and exact arithmetic round to bf16 differently near ties, and differ in cancellation
            changed = np.abs(expected[~untouched])
            np.testing.assert_allclose(y, expected, rtol=2.0**-7, atol=2.0**-20 * changed.max(initial=0))
            assert (y != expected).sum() <= 2 + 0.01 * y.size
        else:
            np.testing.assert_array_equal(native[name], reference[name])


@for_cases(
    15,
    rows=rows,
    k=depths,
    heads=st.sampled_from([(1, 1), (3, 1), (4, 2)]),
    head_dim=st.sampled_from([32, 64]),
    task_heads=st.integers(1, 3),
    bias=st.booleans(),
    seed=seeds,
)
def test_qkv_with_keys_and_values_in_int8(isa, rows, k, heads, head_dim, task_heads, bias, seed):
    options = {"norm": False, "bias": bias, "rotary": 0, "int8": True}
    case = make_qkv(rows, k, heads, head_dim, task_heads, options, seed)
    native, reference = case.run(isa), case.run(None)
    for name in reference:
        np.testing.assert_array_equal(native[name], reference[name])
