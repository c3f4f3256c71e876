"""contract.py reads task.h as the compiler does."""

import shutil
import subprocess

import numpy as np
import pytest

from ellm.kernels import _portable, contract
from ellm.kernels.formats import FORMATS
from ellm.kernels.records import RECORDS

STRUCTS = {
    **contract.DTYPES,
    "attend_item": contract.ATTEND_ITEM,
    "merge_item": contract.MERGE_ITEM,
    "token_number": contract.TOKEN_NUMBER,
    "sampling": contract.SAMPLING,
    "step": contract.STEP,
    "task": contract.TASK,
}


def linear(**changes):
    fields = dict.fromkeys(contract.FIELDS["linear"], 0) | {
        "n_tiles": 20,
        "k_tiles": 3,
        "task_tiles": 8,
        "n": 320,
        "k": 90,
    }
    return fields | changes


def test_every_struct_is_known():
    assert _portable.SIZES.keys() == STRUCTS.keys()
    assert set(_portable.ADDRESSES) == set(contract.DTYPES)


@pytest.mark.parametrize("name", STRUCTS)
def test_size_is_the_extension_s(name):
    assert STRUCTS[name].itemsize == _portable.SIZES[name]
    assert name not in contract.DTYPES or STRUCTS[name].itemsize <= contract.ARGS_BYTES


def test_offsets_are_the_compiler_s(tmp_path):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    fields = [(name, field) for name, dtype in STRUCTS.items() for field in dtype.names]
    lines = [f'printf("%zu\\n", offsetof(ellm_{name}, {field}));' for name, field in fields]
    source = tmp_path / "offsets.c"
    source.write_text(
        '#include <stddef.h>\n#include <stdio.h>\n#include "task.h"\nint main(void) {' + "\n".join(lines) + "}"
    )
    include = contract.__file__.removesuffix("contract.py")
    subprocess.run(["cc", f"-I{include}", str(source), "-o", str(tmp_path / "offsets")], check=True)
    output = subprocess.run([str(tmp_path / "offsets")], check=True, capture_output=True, text=True).stdout
    assert [int(line) for line in output.split()] == [STRUCTS[name].fields[field][1] for name, field in fields]


def test_pack_and_unpack_are_inverse():
    fields = {name: 2.5 if kind == "real" else i - 7 for i, (name, kind) in enumerate(contract.FIELDS["qkv"].items())}
    packed = contract.pack("qkv", **fields)
    assert packed.shape == (contract.ARGS_BYTES,) and packed.dtype == np.uint8
    assert contract.unpack("qkv", packed) == fields


def test_pack_wants_exactly_the_fields():
    fields = {"a": 0, "b": 64, "out": 128, "width": 5}
    with pytest.raises(TypeError, match=r"add: missing fields \['width'\]"):
        contract.pack("add", a=0, b=64, out=128)
    with pytest.raises(TypeError, match=r"unknown fields \['scale'\]"):
        contract.pack("add", **fields, scale=1)
    with pytest.raises(TypeError, match="no kernel is called 'conv'"):
        contract.pack("conv", x=0)


def test_weight_fields():
    assert contract.weight_fields("linear") == {"norm": 24, "weight": 56, "bias": 72}
    assert contract.weight_fields("swiglu") == {}


def test_tasks():
    assert RECORDS["linear"].tasks(linear()) == 3
    assert RECORDS["head_linear"].tasks(linear(heads=5)) == 15
    assert RECORDS["expert_down"].tasks(linear()) == 3
    assert RECORDS["combine"].tasks({"n": 100, "task_columns": 64}) == 2
    assert RECORDS["attend"].tasks({"heads": 4 * contract.FOLD, "kv_heads": 4}) == 4
    assert RECORDS["merge"].tasks({"heads": 8}) == 1
    assert RECORDS["add"].tasks({}) == 1
    assert RECORDS["rope"].tasks({"heads": 9, "task_heads": 4}) == 3
    assert RECORDS["copy"].tasks({"groups": 9, "task_groups": 4}) == 3


def test_bytes_of_a_column_tile():
    found = {name: format.column_bytes(5) for name, format in FORMATS.items()}
    expected = {"bf16": 5 * 1024, "f16": 5 * 1024, "fp8": 2 * (64 + 2048), "mxfp4": 2 * (64 + 1024)}
    expected["bf12"] = 2 * (64 + 3072)
    assert found == expected | {name: size for name, size in found.items() if FORMATS[name].blocked}


def test_scratch_of_a_matmul_holds_its_panel_and_its_product():
    product = 32 * 9 * 16 * 4  # rows of an odd number of cache lines
    assert RECORDS["linear"].scratch_bytes(linear(x_bf16=1), 32) == 64 + product
    assert RECORDS["linear"].scratch_bytes(linear(), 32) == 64 + product + 32 * 3 * 64
    assert RECORDS["linear"].scratch_bytes(linear(k_tiles=4), 32) == 64 + product + 32 * 5 * 64


def test_cost():
    work = RECORDS["linear"].work(linear(), rows=2)
    assert (work.flops, work.tile_flops, work.weight_bytes) == (2 * 2 * 320 * 90, 2 * 2 * 320 * 96, 320 * 96 * 2)
    work = RECORDS["head_linear"].work(linear(heads=2))
    assert (work.tile_flops, work.weight_bytes) == (2 * 2 * 320 * 96, 2 * 320 * 96 * 2)
    attend = {"heads": 8, "kv_heads": 2, "head_dim": 64, "value_dim": 48, "values_in_keys": 0, "int8": 0}
    work = RECORDS["attend"].work(attend, rows=3, keys=100)
    assert (work.flops, work.cache_bytes) == (2 * 3 * 100 * 8 * 112, 2 * 100 * 2 * 112)
    assert RECORDS["attend"].work(attend | {"values_in_keys": 1}, keys=100).cache_bytes == 2 * 100 * 2 * 64
    assert RECORDS["probe_matmul"].work({"tasks": 2, "repeats": 5}).flops == 10 * contract.PROBE_FLOPS
