"""Weights whose numbers are held in fewer bits: what loading makes of them is worth what it is without."""

import os
from dataclasses import replace

import numpy as np
import packed_weights
import pytest
from packed_weights import matrix, source, write_checkpoint

import ellm.checkpoint.packer
from ellm.checkpoint import open_checkpoint
from ellm.checkpoint.loader import load_weights
from ellm.kernels.formats import FORMATS
from ellm.kernels.spill import Spill
from ellm.scheduler.placement import Placement
from ellm.system.errors import InputError

CORES = sorted(os.sched_getaffinity(0))


def load(weights, path, cores) -> tuple[list[np.ndarray], Spill]:
    """What each matrix of each weight is worth, float32 [columns, k]."""
    program = packed_weights.program(weights)
    region = np.zeros(program.weights_bytes + 4096 + sum(weight.spill_bytes for weight in weights), np.uint8)
    address = region.ctypes.data + -region.ctypes.data % 64
    spill = Spill(address + program.weights_bytes, sum(weight.spill_bytes for weight in weights))
    with open_checkpoint(path) as checkpoint:
        load_weights(program.weights, checkpoint, address, Placement(cores), spill=spill)
    return [
        one.packed.weight(address + one.offset + i * one.bank_stride, one.n_tiles, one.k_tiles).copy()
        for one in program.weights
        for i in range(one.experts)
    ], spill


def entries(format: str) -> list:
    """Rows that two sources give in turn, a bank stored the other way round, and one of another dtype."""
    turns = [(part, row, 16, 2 * row + 16 * part) for row in range(0, 96, 16) for part in (0, 1)]
    heads = [(0, 3 + 20 * i, 20, 32 * i) for i in range(4)]
    turned = source("d", (3, 200, 48), stacked=True, transposed=True)
    shape = {"format": format, "task_tiles": 1}
    return [
        matrix("both", [("a", (96, 330)), ("b", (96, 330))], turns, 330, 12, **shape),
        matrix("heads", [("c", (90, 256))], heads, 256, 8, **shape),
        matrix("bank", [turned], [(0, 0, 48, 0)], 200, 3, experts=3, **shape),
        matrix("f32", [("e", (7, 128))], [(0, 0, 7, 0)], 128, 1, **shape),
    ]  # fmt: skip


def write(folder, far: bool):
    random = np.random.default_rng(0)
    shapes = {"a": (96, 330), "b": (96, 330), "c": (90, 256), "d": (3, 200, 48)}
    tensors = {
        name: ("BF16", random.standard_normal(shape, np.float32).view("<u4") >> 16) for name, shape in shapes.items()
    }
    if far:
        tensors["b"] = ("BF16", random.integers(0, 0x7F80, (96, 330)))
    tensors["e"] = ("F32", random.standard_normal((7, 128), np.float32))
    return write_checkpoint(folder, tensors)


@pytest.mark.parametrize("cores", [CORES[:1], CORES * 3])
@pytest.mark.parametrize("scratch", [1, 30_000, 1 << 21])
@pytest.mark.parametrize("far", [False, True])
def test_the_same_numbers(tmp_path, monkeypatch, cores, scratch, far):
    monkeypatch.setattr(ellm.checkpoint.packer, "_SCRATCH_BYTES", scratch)
    path = write(tmp_path, far)
    expected, _ = load(entries("bf16"), path, cores)
    found, spill = load(entries("bf12"), path, cores)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32))
    assert spill.used == 6 * 3 * 1024 * far  # six column tiles are of b


def test_a_program_plans_the_most_that_weights_may_spill():
    both, *_ = entries("bf12")
    assert both.bytes == 12 * 3 * FORMATS["bf12"].block_bytes and both.spill_bytes == 12 * 3 * 1024
    assert replace(both, format="bf16").spill_bytes == 0


def test_memory_that_runs_out_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(ellm.checkpoint.packer, "_LOOK_BYTES", 4096)
    monkeypatch.setattr("ellm.system.memory.available", lambda: 100)
    with pytest.raises(
        InputError, match=r"its weights need .* more of memory than bf12 has been planned with, .* left$"
    ):
        load(entries("bf12"), write(tmp_path, True), CORES[:1])
