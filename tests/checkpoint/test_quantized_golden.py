"""Weights of AWQ and GPTQ as they are read, against what autoawq and gptqmodel make of the same tensors."""

from pathlib import Path

import numpy as np
import pytest
import tiny

from ellm.checkpoint import open_checkpoint

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "quantized.npz")
CASES = sorted({name.rpartition("/")[0] for name in GOLDEN.files})


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_those_of_the_package(tmp_path, case):
    method, number = case.split("/")
    tensors = {name.split("/")[2]: GOLDEN[name] for name in GOLDEN.files if name.startswith(f"{case}/")}
    worth = tensors.pop("worth")
    quantization = {"quant_method": method.split("-")[0].removesuffix("_v2"), "checkpoint_format": method.split("-")[0]}
    config = {"torch_dtype": {"F16": "float16", "BF16": "bfloat16"}[number], "quantization_config": quantization}
    tiny.write_json(tmp_path / "config.json", config)
    tiny.write_weights(tmp_path, {f"w.{name}": values for name, values in tensors.items()}, 1)
    with open_checkpoint(tmp_path) as checkpoint:
        rows = checkpoint.read_rows("w.weight", 3, 29, columns=(5, 60))
    found = rows.view(np.float16).astype(np.float32) if number == "F16" else tiny.from_bf16(rows)
    np.testing.assert_array_equal(found, worth[3:29, 5:60])
