"""expert_gate_up and expert_down against their references; a routed row has the same bits whatever rows are near it."""

from dataclasses import dataclass

import formats
import numpy as np
from formats import BF16, F16, FP8, MXFP4
from harness import Case, bf16_ulps, for_cases, up
from hypothesis import strategies as st

from ellm.kernels.layout import from_bf16, to_bf16
from ellm.kernels.records import RECORDS

ROW_BLOCK = 16
BLOCKS = 3
EXPERTS = 3
seeds = st.integers(0, 2**32 - 1)


@dataclass
class Bank:
    """Weights and biases of some experts, and step rows of a few of which one expert is hit."""

    format: int
    k: int
    n: int
    packed: list[np.ndarray]
    bias: np.ndarray | None  # f32 [experts, 16 * n_tiles]
    x: np.ndarray  # bf16-valued f32 [BLOCKS * ROW_BLOCK, k]

    @classmethod
    def random(cls, format: int, k: int, n: int, bias: bool, random: np.random.Generator) -> "Bank":
        packed = [formats.random_weight(format, n, k, random) for _ in range(EXPERTS)]
        biases = random.standard_normal((EXPERTS, up(n, 16))).astype(np.float32) if bias else None
        x = from_bf16(to_bf16(random.standard_normal((BLOCKS * ROW_BLOCK, k)).astype(np.float32)))
        return cls(format, k, n, packed, biases, x)

    def place(self, case: Case, task_tiles: int) -> None:
        case.constant("weight", np.concatenate([weight.reshape(-1).view(np.uint8) for weight in self.packed]))
        case.constant("bias", self.bias)
        case.args |= {"norm": 0, "eps": 0, "x_bf16": 1, "k": self.k, "k_tiles": up(self.k, 32) // 32}
        case.args |= {"n_tiles": up(self.n, 16) // 16, "task_tiles": task_tiles, "format": self.format}
        case.args |= {"bank_stride": self.packed[0].nbytes, "x_stride": up(self.k, 32)}
        case.args["bias_stride"] = 0 if self.bias is None else self.bias[0].nbytes

    def exact(self, expert: int, x: np.ndarray) -> np.ndarray:
        y = x.astype(np.float64) @ formats.values(self.packed[expert], self.format, self.n, self.k).T
        return y if self.bias is None else y + self.bias[expert, : self.n]


class Routed(Case):
    """An operator of experts: its group's block is the expert, its tasks are row tiles times column tasks."""

    def __init__(self, kernel: str, expert: int, begin: np.ndarray):
        super().__init__(kernel, 0, row_block=ROW_BLOCK, block=expert, blocks=BLOCKS)
        self.begin = begin
        self.place_shared("begin", begin.astype(np.int32))

    @property
    def tasks(self) -> int:
        rows = int(self.begin[self.block + 1] - self.begin[self.block])
        return -(-rows // ROW_BLOCK) * RECORDS[self.kernel].tasks(self.args)


def begins(counts: list[int]) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(counts)))


def make_gate_up(
    bank: Bank, expert: int, counts: list[int], step_rows: np.ndarray, tiles: int, activation: int
) -> Routed:
    begin = begins(counts)
    case = Routed("expert_gate_up", expert, begin)
    bank.place(case, 2 * tiles)
    width = up(bank.k, 32)
    case.args["x"] = case.reserve(2 * width)
    for row, x in enumerate(bank.x):
        offset = row // ROW_BLOCK * case.section_bytes + case.args["x"] + row % ROW_BLOCK * 2 * width
        case.arena.view((width,), np.uint16, offset)[:] = np.pad(to_bf16(x), (0, width - bank.k))
    case.place_shared("rows", step_rows.astype(np.int32))
    n = bank.n // 2 - 3  # the last pair of column tiles is not full
    case.args |= {"n": n, "activation": activation, "limit": 1.5, "alpha": 1.702, "out_bf16": 1}
    case.args["out_stride"] = up(n, 32)
    case.output_shared("out", (int(begin[-1]), up(n, 32)), np.uint16)
    return case


@for_cases(
    40,
    count=st.integers(1, 40),
    expert=st.integers(0, EXPERTS - 1),
    sizes=st.sampled_from([(24, 32), (70, 64), (128, 96), (200, 160)]),
    format=st.sampled_from([BF16, F16, FP8, MXFP4]),
    bias=st.booleans(),
    activation=st.integers(0, 1),
    tiles=st.integers(1, 3),
    seed=seeds,
)
def test_expert_gate_up(isa, count, expert, sizes, format, bias, activation, tiles, seed):
    random = np.random.default_rng(seed)
    bank = Bank.random(format, *sizes, bias, random)
    counts = random.integers(0, 5, EXPERTS)
    counts[expert] = count
    step_rows = random.integers(0, len(bank.x), counts.sum())
    case = make_gate_up(bank, expert, counts, step_rows, tiles, activation)
    before = case.outputs["out"].copy()
    native, reference = case.run(isa)["out"], case.run(None)["out"]
    begin = begins(counts)
    own = slice(begin[expert], begin[expert + 1])
    n = case.args["n"]
    for result in (native, reference):
        assert (result[own, n:] == 0).all()
        others = np.delete(np.arange(len(result)), own)
        np.testing.assert_array_equal(result[others], before[others])
    y, expected = from_bf16(native[own, :n]), from_bf16(reference[own, :n])
    np.testing.assert_allclose(y, expected, rtol=2.0**-7, atol=1e-4 * np.abs(expected).max())
    assert (bf16_ulps(native[own, :n], reference[own, :n]) > 0).mean() < 0.05
    for position in {int(begin[expert]), int(begin[expert + 1]) - 1}:
        one = np.eye(EXPERTS, dtype=int)[expert]
        alone = make_gate_up(bank, expert, one, step_rows[[position]], tiles, activation).run(isa)["out"]
        np.testing.assert_array_equal(alone[0], native[position])


def test_clamped_activation_is_that_of_gpt_oss():
    random = np.random.default_rng(1)
    bank = Bank.random(BF16, 64, 64, True, random)
    case = make_gate_up(bank, 1, [0, 4, 0], np.arange(4), 1, 1)
    pairs = bank.exact(1, bank.x[:4]).reshape(4, 2, 2, 16)
    gate, up_columns = (pairs[:, :, i].reshape(4, -1)[:, : case.args["n"]] for i in (0, 1))
    assert (gate > 1.5).any() and (np.abs(up_columns) > 1.5).any()
    gate, up_columns = np.minimum(gate, 1.5), np.clip(up_columns, -1.5, 1.5)
    exact = (up_columns + 1) * gate / (1 + np.exp(-1.702 * gate))
    np.testing.assert_allclose(from_bf16(case.run(None)["out"][:, : case.args["n"]]), exact, rtol=2.0**-8, atol=1e-5)


def make_down(bank: Bank, expert: int, counts: list[int], rows: np.ndarray, tiles: int) -> Routed:
    begin = begins(counts)
    case = Routed("expert_down", expert, begin)
    bank.place(case, tiles)
    routed = np.zeros((up(len(rows), ROW_BLOCK) + ROW_BLOCK, up(bank.k, 32)), np.uint16)
    routed[: len(rows), : bank.k] = to_bf16(rows)
    case.place_shared("routed", routed)
    case.args |= {"x": -1, "n": bank.n}
    case.output_shared("out", (int(begin[-1]), bank.n), np.float32)
    return case


@for_cases(
    40,
    count=st.integers(1, 40),
    expert=st.integers(0, EXPERTS - 1),
    sizes=st.sampled_from([(24, 32), (70, 40), (128, 96), (200, 150)]),
    format=st.sampled_from([BF16, F16, FP8, MXFP4]),
    bias=st.booleans(),
    tiles=st.integers(1, 5),
    seed=seeds,
)
def test_expert_down(isa, count, expert, sizes, format, bias, tiles, seed):
    random = np.random.default_rng(seed)
    bank = Bank.random(format, *sizes, bias, random)
    counts = random.integers(0, 5, EXPERTS)
    counts[expert] = count
    begin = begins(counts)
    rows = bank.x[random.integers(0, len(bank.x), counts.sum())]
    case = make_down(bank, expert, counts, rows, tiles)
    native, reference = case.run(isa)["out"], case.run(None)["out"]
    own = slice(begin[expert], begin[expert + 1])
    exact = bank.exact(expert, rows[own])
    magnitude = np.abs(rows[own]) @ np.abs(formats.values(bank.packed[expert], format, bank.n, bank.k)).T + 9
    for result in (native, reference):
        assert (np.abs(result[own] - exact) <= (2 * bank.k + 4) * 2.0**-23 * magnitude).all()
        assert np.isnan(np.delete(result, own, 0)).all()
    for position in {int(begin[expert]), int(begin[expert + 1]) - 1}:
        alone = make_down(bank, expert, np.eye(EXPERTS, dtype=int)[expert], rows[[position]], tiles).run(isa)["out"]
        np.testing.assert_array_equal(alone[0], native[position])
