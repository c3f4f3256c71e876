"""scatter, expert_gate_up and expert_down against their references; a routed row's bits do not depend on the others."""

from dataclasses import dataclass

import formats
import numpy as np
from formats import BF16, F16, FP8, MXFP4
from harness import Case, bf16_ulps, for_cases, up
from hypothesis import strategies as st

from ellm.kernels.contract import EXPERT_ROWS, INT8, INT16, PIECE
from ellm.kernels.formats import FORMATS
from ellm.kernels.layout import from_bf16, to_bf16
from ellm.kernels.records import RECORDS, panel_row_bytes
from ellm.kernels.reference_panel import Panel

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
        case.args |= {"x": -1, "x_bf16": 0, "x_stride": 0, "norm": 0, "eps": 0}
        case.args |= {"k": self.k, "k_tiles": up(self.k, 32) // 32}
        case.args |= {"n_tiles": up(self.n, 16) // 16, "task_tiles": task_tiles, "format": self.format}
        case.args |= {"bank_stride": self.packed[0].nbytes}
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
        return -(-rows // EXPERT_ROWS) * RECORDS[self.kernel].tasks(self.args)


def begins(counts: list[int]) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(counts)))


def routed_rows(case: Routed, rows: int, k: int) -> Panel:
    """Room for rows of a panel in bf16, and for what whole tiles of rows read behind the last one."""
    k_tiles = up(k, 32) // 32
    case.shared("routed", (rows + 15, panel_row_bytes(k_tiles, 0)), np.uint8)
    return Panel(case.arena.bytes, case.args["routed"], k_tiles, 0, 0)


def make_gate_up(bank: Bank, expert: int, counts: list[int], rows: np.ndarray, tiles: int, activation: int) -> Routed:
    """The rows are bf16-valued f32 [routed, k]."""
    begin = begins(counts)
    case = Routed("expert_gate_up", expert, begin)
    bank.place(case, 2 * tiles)
    routed_rows(case, len(rows), bank.k).write(slice(0, len(rows)), rows)
    n = bank.n // 2 - 3  # the last pair of column tiles is not full
    case.args |= {"n": n, "activation": activation, "limit": 1.5, "alpha": 1.702}
    case.args["out_bf16"] = 1
    row_bytes = panel_row_bytes(up(n, 32) // 32, 0)
    case.output_shared("out", (int(begin[-1]), row_bytes // 2), np.uint16)
    return case


@for_cases(
    40,
    count=st.sampled_from([1, 2, 15, 16, 17, 40, EXPERT_ROWS + 1]),
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
    rows = bank.x[random.integers(0, len(bank.x), counts.sum())]
    case = make_gate_up(bank, expert, counts, rows, tiles, activation)
    before = case.outputs["out"].copy()
    native, reference = case.run(isa)["out"], case.run(None)["out"]
    begin = begins(counts)
    own = slice(begin[expert], begin[expert + 1])
    n = case.args["n"]
    padded = up(n, 32)
    for result in (native, reference):
        assert (result[own, n:padded] == 0).all()
        np.testing.assert_array_equal(result[own, padded:], before[own, padded:])
        others = np.delete(np.arange(len(result)), own)
        np.testing.assert_array_equal(result[others], before[others])
    y, expected = from_bf16(native[own, :n]), from_bf16(reference[own, :n])
    np.testing.assert_allclose(y, expected, rtol=2.0**-7, atol=1e-4 * np.abs(expected).max())
    assert (bf16_ulps(native[own, :n], reference[own, :n]) > 0).mean() < 0.05
    for position in {int(begin[expert]), int(begin[expert + 1]) - 1}:
        one = np.eye(EXPERTS, dtype=int)[expert]
        alone = make_gate_up(bank, expert, one, rows[[position]], tiles, activation).run(isa)["out"]
        np.testing.assert_array_equal(alone[0], native[position])


def test_clamped_activation_is_that_of_gpt_oss():
    random = np.random.default_rng(1)
    bank = Bank.random(BF16, 64, 64, True, random)
    case = make_gate_up(bank, 1, [0, 4, 0], bank.x[:4], 1, 1)
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
    routed_rows(case, len(rows), bank.k).write(slice(0, len(rows)), rows)
    case.args["n"] = bank.n
    case.output_shared("out", (int(begin[-1]), bank.n), np.float32)
    return case


@for_cases(
    40,
    count=st.sampled_from([1, 2, 15, 16, 17, 40, EXPERT_ROWS + 1]),
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


def make_scatter(x: np.ndarray, ids: np.ndarray, bf16: bool, format: int, activations: int) -> Case:
    """Rows x, f32 [step rows, k], of row blocks of ROW_BLOCK, each to its top_k experts `ids`."""
    rows, k = x.shape
    case = Pieces("scatter", min(rows, ROW_BLOCK), row_block=ROW_BLOCK, blocks=-(-rows // ROW_BLOCK), section=1 << 15)
    case.step.rows = rows
    width, dtype = (up(k, 32), np.uint16) if bf16 else (k, np.float32)
    case.args["x"] = case.reserve(width * np.dtype(dtype).itemsize)
    for row, values in enumerate(x):
        offset = (
            row // ROW_BLOCK * case.section_bytes + case.args["x"] + row % ROW_BLOCK * width * np.dtype(dtype).itemsize
        )
        case.arena.view((k,), dtype, offset)[:] = to_bf16(values) if bf16 else values
    k_tiles = up(k, 32) // 32
    case.args |= {"x_bf16": int(bf16), "x_stride": width, "k": k, "k_tiles": k_tiles, "top_k": ids.shape[1]}
    case.args |= {"format": format, "activations": activations}
    position = np.empty(ids.size, np.int32)
    position[np.argsort(ids, axis=None, kind="stable")] = np.arange(ids.size)
    case.place_shared("ids", ids.astype(np.int32))
    case.place_shared("begin", begins(np.bincount(ids.ravel(), minlength=EXPERTS)).astype(np.int32))
    case.place_shared("position", position.reshape(ids.shape))
    case.output_shared("out", (ids.size, panel_row_bytes(k_tiles, activations)), np.uint8)
    return case


class Pieces(Case):
    """An operator whose tasks are pieces of the step."""

    @property
    def tasks(self) -> int:
        return -(-self.step.rows // PIECE)


def draw_routes(rows: int, top_k: int, random: np.random.Generator) -> np.ndarray:
    return np.argsort(random.random((rows, EXPERTS)) + np.array([0, 0.8, 0.2]), -1)[:, :top_k]


@for_cases(
    40, rows=st.sampled_from([1, 3, 4, 5, 40]), k=st.sampled_from([24, 70, 128]), top_k=st.integers(1, EXPERTS),
    bf16=st.booleans(), seed=seeds,
)  # fmt: skip
def test_scatter(isa, rows, k, top_k, bf16, seed):
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, k)).astype(np.float32)
    case = make_scatter(x, draw_routes(rows, top_k, random), bf16, BF16, 0)
    np.testing.assert_array_equal(case.run(isa)["out"], case.run(None)["out"])


@for_cases(
    30,
    rows=st.sampled_from([1, 3, 40, 2 * EXPERT_ROWS + 20]),
    k=st.sampled_from([24, 70, 128, 300]),
    name=st.sampled_from([name for name, format in FORMATS.items() if format.whole]),
    activations=st.sampled_from([INT16, INT8]),
    seed=seeds,
)
def test_experts_of_whole_numbers(isa, rows, k, name, activations, seed):
    """From scatter through gate_up to down, each kernel on what the one before has left."""
    random, n, width = np.random.default_rng(seed), 40, 288
    format = FORMATS[name].number
    up_bank, down_bank = (Bank.random(format, *size, False, random) for size in ((k, 2 * width), (width, n)))
    x = random.standard_normal((rows, k)).astype(np.float32)
    ids = draw_routes(rows, 2, random)
    counts = np.bincount(ids.ravel(), minlength=EXPERTS)
    expert = int(counts.argmax())
    results = {}
    for kernels in (isa, None):
        packed = make_scatter(x, ids, False, format, activations).run(kernels)["out"]
        gate_up, down = (Routed(f"expert_{kind}", expert, begins(counts)) for kind in ("gate_up", "down"))
        for case, bank, tiles in ((gate_up, up_bank, 4), (down, down_bank, 2)):
            bank.place(case, tiles)
            case.args["activations"] = activations
        gate_up.place_shared("routed", packed)
        gate_up.args |= {"n": width, "activation": 0, "limit": 0, "alpha": 0}
        gate_up.args["out_bf16"] = 0
        gate_up.output_shared("out", (int(counts.sum()), width), np.float32)
        down.place_shared("routed", gate_up.run(kernels)["out"])
        down.args |= {"n": n, "x_stride": width}
        down.output_shared("out", (int(counts.sum()), n), np.float32)
        results[kernels] = down.run(kernels)["out"]
    own = slice(*begins(counts)[expert : expert + 2])
    scale = np.abs(results[None][own]).max()
    np.testing.assert_allclose(
        results[isa][own], results[None][own], rtol=0, atol=2.0 ** (-12 if activations == INT16 else -5) * scale
    )
