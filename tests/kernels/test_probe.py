"""The probes do the work that their limits are computed from: every byte is read, every product is made."""

import importlib

import amx
import numpy as np
import pytest
from harness import Memory, each_isa

from ellm.kernels import contract, isa
from ellm.kernels.records import RECORDS

SHARE = 16 * 1024


def run(name: str, kernel: str, fields: dict, index: int) -> np.ndarray:
    """The scratch after one task, as uint64."""
    scratch = Memory(RECORDS[kernel].scratch_bytes(fields, 16) + 56)
    args, step = contract.pack(kernel, **fields), np.zeros(1, contract.STEP)
    error = importlib.import_module(f"ellm.kernels._{name}").run(
        kernel, args.ctypes.data, step.ctypes.data, 0, scratch.address,
        section_bytes=0, row_block=16, block=0, rows=1, index=index,
    )  # fmt: skip
    assert error == 0
    return scratch.bytes[64:].view(np.uint64)


@each_isa
@pytest.mark.parametrize("loop", contract.READ_LOOPS, ids=str)
def test_every_byte_of_the_share_is_read(isa, loop):
    words = np.random.default_rng(0).integers(0, 2**64, 3 * SHARE // 8, np.uint64)
    memory = Memory.of(words)
    for index in range(3):
        result = run(isa, "probe_read", {"memory": memory.address, "bytes": SHARE, "tasks": 3, **loop}, index)
        if isa != "amx" or not loop["tiles"]:  # a tile load leaves nothing to compare
            assert result[0] == np.bitwise_xor.reduce(words[index * SHARE // 8 :][: SHARE // 8])


@each_isa
def test_multiplication_ends_with_a_number(isa):
    result = run(isa, "probe_matmul", {"repeats": 3, "tasks": 1}, 0).view(np.float32)[0]
    assert np.isfinite(result) and result > 0


@pytest.mark.skipif(amx.obstacle() is not None, reason=str(amx.obstacle()))
@pytest.mark.skipif(isa.available()["amx"] is None, reason="this CPU has AMX: its instructions do not trap")
def test_tile_products_are_as_many_as_said():
    before = amx.emulator().amx_trap_products()
    run("amx", "probe_matmul", {"repeats": 5, "tasks": 1}, 0)
    made = amx.emulator().amx_trap_products() - before
    assert made * 2 * 16 * 16 * 32 == RECORDS["probe_matmul"].work({"repeats": 5, "tasks": 1}).flops
