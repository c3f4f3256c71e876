"""What tests/helpers/quantized.py says that tensors of compressed-tensors are worth, against the package."""

import numpy as np
import pytest
import quantized

pytestmark = pytest.mark.oracle
GROUPS = dict(num_bits=4, type="int", strategy="group", group_size=32, symmetric=True)
ROWS = dict(num_bits=8, type="int", strategy="channel", symmetric=True)
FLOAT = ROWS | dict(type="float")
CASES = {
    "groups": (quantized.pack_quantized, {}, "pack-quantized", GROUPS),
    "zeros": (quantized.pack_quantized, {"zeros": True}, "pack-quantized", GROUPS | {"symmetric": False}),
    "8 bits": (quantized.pack_quantized, {"bits": 8}, "pack-quantized", GROUPS | {"num_bits": 8}),
    "3 bits": (quantized.pack_quantized, {"bits": 3}, "pack-quantized", GROUPS | {"num_bits": 3}),
    "rows": (quantized.pack_quantized, {"group": 0}, "pack-quantized", ROWS | {"num_bits": 4}),
    "float32 scales": (quantized.pack_quantized, {"scale": "F32"}, "pack-quantized", GROUPS),
    "bytes": (quantized.int_quantized, {}, "int-quantized", ROWS),
    "bytes, zeros": (quantized.int_quantized, {"zeros": True}, "int-quantized", ROWS | {"symmetric": False}),
    "bytes, float32 scales": (quantized.int_quantized, {"scale": "F32"}, "int-quantized", ROWS),
    "FP8": (quantized.fp8, {}, "float-quantized", FLOAT),
    "FP8, bf16 scales": (quantized.fp8, {"scale": "BF16"}, "float-quantized", FLOAT),
    "FP8, one scale": (quantized.fp8, {"shape": (1,)}, "float-quantized", FLOAT | {"strategy": "tensor"}),
    "FP8, blocks": (
        quantized.fp8,
        {"shape": "blocks"},
        "float-quantized",
        FLOAT | {"strategy": "block", "block_structure": [128, 128]},
    ),
}


@pytest.mark.parametrize("number", ["BF16", "F16"])
@pytest.mark.parametrize("case", CASES)
def test_worth_is_that_of_the_package(case, number):
    import torch

    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    layout, options, name, weights = CASES[case]
    tensors, worth = layout(np.random.default_rng(0), 64, 256, number, **options)
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))

    def as_torch(values):
        if values.dtype == np.uint16:
            return torch.tensor(values.view(np.int16)).view(torch.bfloat16)
        found = torch.tensor(values)
        return found.view(torch.float8_e4m3fn) if values.dtype == np.uint8 else found

    stored = {key: as_torch(values) for key, values in tensors.items()}
    found = BaseCompressor.get_value_from_registry(name).decompress(stored, scheme)["weight"]
    found = found.to({"BF16": torch.bfloat16, "F16": torch.float16}[number])
    np.testing.assert_array_equal(found.float().numpy(), worth)
