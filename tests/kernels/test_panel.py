"""The A operand in a worker's scratch: prepared once for an operator, row block and step, and never stale."""

import importlib

import numpy as np
import pytest
from harness import Memory, each_isa, pack_weight

from ellm.kernels import contract
from ellm.kernels.layout import to_bf16

ROWS, K, N, ROW_BLOCK = 5, 70, 40, 16
WIDE = 96  # row stride of bf16 rows
BF16_X, OUT, SECTION = ROW_BLOCK * K * 4, 1 << 14, 1 << 15


class Worker:
    """One scratch memory, in which operators run one after another."""

    def __init__(self, isa: str):
        self.module = importlib.import_module(f"ellm.kernels._{isa}")
        self.random = np.random.default_rng(5)
        self.w = self.random.integers(-4, 5, (N, K)).astype(np.float32)
        self.weight = Memory.of(pack_weight(self.w))
        self.arena = Memory(2 * SECTION)
        self.step = np.zeros(1, contract.STEP)
        self.scratch = Memory(1 << 16)
        self.scratch.bytes[:64] = 0
        self.linear = self.operator()
        self.other = self.operator(gain=np.full(K, 2, np.float32))
        self.in_place = self.operator(x=BF16_X, x_bf16=1, x_stride=WIDE)

    def operator(self, gain: np.ndarray | None = None, **changes: int) -> tuple[np.ndarray, Memory | None]:
        """Arguments of a `linear`, and its norm's weight to be kept alive."""
        norm = None if gain is None else Memory.of(gain)
        fields = dict.fromkeys(contract.FIELDS["linear"], 0) | {
            "x_stride": K, "k": K, "k_tiles": -(-K // 32), "weight": self.weight.address, "n": N,
            "n_tiles": -(-N // 16), "task_tiles": 1, "out": OUT, "out_stride": N, "residual": -1,
            "norm": norm.address if norm else 0,
        }  # fmt: skip
        return contract.pack("linear", **fields | changes), norm

    def rows(self, block: int) -> np.ndarray:
        """New rows x of a block, small integers, as f32 and as bf16."""
        x = self.random.integers(-4, 5, (ROWS, K)).astype(np.float32)
        self.arena.view((ROWS, K), np.float32, block * SECTION)[:] = x
        wide = self.arena.view((ROWS, WIDE), np.uint16, block * SECTION + BF16_X)
        wide[:], wide[:, :K] = 0, to_bf16(x)
        return x

    def run(self, operator: tuple[np.ndarray, Memory | None], block: int = 0, tasks: range = range(3)) -> np.ndarray:
        for index in tasks:
            error = self.module.run(
                "linear", operator[0].ctypes.data, self.step.ctypes.data, self.arena.address, self.scratch.address,
                section_bytes=SECTION, row_block=ROW_BLOCK, block=block, rows=ROWS, index=index,
            )  # fmt: skip
            assert error == 0
        return self.arena.view((ROWS, N), np.float32, block * SECTION + OUT).copy()


@pytest.fixture
def worker(isa):
    return Worker(isa)


@each_isa
def test_new_step_makes_a_new_panel(isa, worker):
    for number in (1, 2):
        worker.step["number"] = number
        x = worker.rows(0)
        np.testing.assert_array_equal(worker.run(worker.linear), x @ worker.w.T)


@each_isa
def test_panel_is_reused_within_an_operator(isa, worker):
    worker.step["number"] = 1
    x = worker.rows(0)
    worker.run(worker.linear, tasks=range(1))
    worker.rows(0)  # nobody writes x while the operator runs; that it goes unnoticed shows that x was not read again
    np.testing.assert_array_equal(worker.run(worker.linear, tasks=range(1, 3))[:, 16:], (x @ worker.w.T)[:, 16:])


@each_isa
def test_row_blocks_and_operators_do_not_share_a_panel(isa, worker):
    worker.step["number"] = 1
    first, second = worker.rows(0), worker.rows(1)
    normed = worker.run(worker.other)
    np.testing.assert_array_equal(worker.run(worker.linear), first @ worker.w.T)
    np.testing.assert_array_equal(worker.run(worker.linear, block=1), second @ worker.w.T)
    np.testing.assert_array_equal(worker.run(worker.linear), first @ worker.w.T)
    np.testing.assert_array_equal(worker.run(worker.other), normed)


@each_isa
def test_product_over_a_panel_makes_it_forgotten(isa, worker):
    """bf16 rows are used in place, so the product lies where the panel was."""
    worker.step["number"] = 1
    x = worker.rows(0)
    worker.run(worker.linear)
    np.testing.assert_array_equal(worker.run(worker.in_place), x @ worker.w.T)
    np.testing.assert_array_equal(worker.run(worker.linear), x @ worker.w.T)
