"""The tile product of each ISA: a row's result is the same bits whatever rows and columns are computed with it."""

import importlib

import numpy as np
import pytest
from harness import Memory, each_isa, pack_weight

from ellm.kernels import contract, isa
from ellm.kernels.layout import from_bf16, to_bf16
from ellm.kernels.records import RECORDS

K, N, ROW_BLOCK = 330, 16 * 11, 64


class Linear:
    """y = x . w^T by the kernel `linear`, for chosen rows of x and tiles a task."""

    def __init__(self, isa: str, k: int = K, row_block: int = ROW_BLOCK):
        self.k, self.row_block = k, row_block
        random = np.random.default_rng(3)
        self.module = importlib.import_module(f"ellm.kernels._{isa}")
        self.x = random.standard_normal((row_block, k)).astype(np.float32)
        self.w = random.standard_normal((N, k)).astype(np.float32)
        self.weight = Memory.of(pack_weight(self.w))

    def __call__(self, rows: list[int], task_tiles: int = 8) -> np.ndarray:
        fields = dict.fromkeys(contract.FIELDS["linear"], 0) | {
            "x_stride": self.k, "k": self.k, "k_tiles": -(-self.k // 32), "weight": self.weight.address,
            "n_tiles": N // 16, "n": N, "task_tiles": task_tiles, "residual": -1,
            "out": self.row_block * self.k * 4, "out_stride": N,
        }  # fmt: skip
        arena = Memory(self.row_block * (self.k + N) * 4)
        arena.view((len(rows), self.k), np.float32)[:] = self.x[rows]
        args, step = contract.pack("linear", **fields), np.zeros(1, contract.STEP)
        step["number"] = 1
        scratch = Memory(RECORDS["linear"].scratch_bytes(fields, self.row_block))
        error = self.module.run(
            "linear", args.ctypes.data, step.ctypes.data, arena.address, scratch.address,
            section_bytes=arena.bytes.size, row_block=self.row_block, block=0, rows=len(rows), index=0,
            count=RECORDS["linear"].tasks(fields),
        )  # fmt: skip
        assert error == 0
        return arena.view((len(rows), N), np.float32, fields["out"])


@pytest.fixture
def linear(isa):
    return Linear(isa)


@each_isa
def test_result_is_right(isa, linear):
    exact = from_bf16(to_bf16(linear.x)).astype(np.float64) @ from_bf16(to_bf16(linear.w)).T.astype(np.float64)
    np.testing.assert_allclose(linear(list(range(ROW_BLOCK))), exact, atol=1e-4)


@each_isa
def test_row_does_not_depend_on_the_number_of_rows(isa, linear):
    whole = linear(list(range(ROW_BLOCK)))
    for rows in range(1, ROW_BLOCK + 1):
        np.testing.assert_array_equal(linear(list(range(rows))), whole[:rows], err_msg=f"{rows} rows")


@each_isa
def test_row_does_not_depend_on_its_position(isa, linear):
    whole = linear(list(range(ROW_BLOCK)))
    for position in range(ROW_BLOCK):
        rows = [(i - position) % ROW_BLOCK for i in range(ROW_BLOCK)]
        np.testing.assert_array_equal(linear(rows)[position], whole[0], err_msg=f"position {position}")


@pytest.mark.skipif(isa.available()["avx512f"] is not None, reason="no AVX-512")
def test_fused_products_have_the_same_bits_by_256_and_512_bits():
    for rows in (1, 3, 4, 6, 23):
        np.testing.assert_array_equal(Linear("avx512f")(list(range(rows))), Linear("avx2")(list(range(rows))))


@each_isa
@pytest.mark.parametrize("task_tiles", [1, 2, 3, 5, 11])
def test_row_does_not_depend_on_how_columns_are_cut(isa, linear, task_tiles):
    rows = list(range(23))
    np.testing.assert_array_equal(linear(rows, task_tiles), linear(rows))


@each_isa
@pytest.mark.parametrize("k", [1100, 8300], ids=["parts of k", "more than stays in L2"])
def test_long_row_does_not_depend_on_the_number_of_rows(isa, k):
    linear = Linear(isa, k)
    whole = linear(list(range(ROW_BLOCK)))
    exact = from_bf16(to_bf16(linear.x)).astype(np.float64) @ from_bf16(to_bf16(linear.w)).T.astype(np.float64)
    np.testing.assert_allclose(whole, exact, atol=2e-6 * k)
    for rows in (1, 16, 17, 32, 33, 48, 49):
        np.testing.assert_array_equal(linear(list(range(rows))), whole[:rows], err_msg=f"{rows} rows")


@each_isa
@pytest.mark.parametrize("k", [330, 2080], ids=["in L2", "more than stays in L2"])
def test_row_does_not_depend_on_how_many_there_are_in_a_large_block(isa, k):
    linear = Linear(isa, k, row_block=288)
    whole = linear(list(range(288)))
    np.testing.assert_array_equal(linear(list(range(17))), whole[:17])
    for rows in (65, 112, 240, 256, 271):
        np.testing.assert_array_equal(linear(list(range(rows))), whole[:rows], err_msg=f"{rows} rows")
