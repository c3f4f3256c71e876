"""Writes quantized.npz: tensors of AWQ and GPTQ, and what autoawq and gptqmodel make of them.

Run: python tests/golden/make_quantized.py AWQ GPTQMODEL, the folders of the unpacked sources of both packages
(autoawq 0.2.9, gptqmodel 7.7.0). Of these, single functions are run: what the packages import is not needed.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
import quantized

FILE = Path(__file__).parent / "quantized.npz"
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16}
ADDED = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}  # gptqmodel/utils/model.py, convert_gptq_v1_to_v2_format_module
GPTQ = {
    f"gptq{version}-{bits}-{'scattered' if order else 'in-order'}": dict(bits=bits, order=order, v2=bool(version))
    for version in ("", "_v2")
    for bits in (2, 4, 8)
    for order in (False, True)
    if bits == 4 or not order
}


def main(awq: Path, gptqmodel: Path) -> None:
    found = {}
    dequantize_awq, dequantize_gptq = awq_function(awq), gptq_function(gptqmodel)
    for number, dtype in DTYPES.items():
        tensors, _ = quantized.awq(np.random.default_rng(0), 32, 64, number, group=32)
        found |= saved("awq", number, tensors, dequantize_awq(tensors, dtype))
        for name, options in GPTQ.items():
            tensors, _ = quantized.gptq(np.random.default_rng(0), 32, 64, number, group=32, **options)
            found |= saved(name, number, tensors, dequantize_gptq(tensors, dtype, options["bits"], options["v2"]))
    np.savez_compressed(FILE, **found)


def saved(name: str, number: str, tensors: dict, worth: torch.Tensor) -> dict[str, np.ndarray]:
    """Entries "name/number/tensor"; "worth" is [rows, k] as float32."""
    return {f"{name}/{number}/{key}": value for key, value in tensors.items()} | {
        f"{name}/{number}/worth": worth.float().numpy().T
    }


def awq_function(folder: Path):
    spec = importlib.util.spec_from_file_location("packing_utils", folder / "awq" / "utils" / "packing_utils.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def dequantize(tensors, dtype):
        qweight, qzeros, scales = (torch.tensor(tensors[name]) for name in ("qweight", "qzeros", "scales"))
        return module.dequantize_gemm(qweight, qzeros, scales.to(dtype), 4, 32)

    return dequantize


def gptq_function(folder: Path):
    """`dequantize_weight` of the class of all its linear layers."""
    source = (folder / "gptqmodel" / "nn_modules" / "qlinear" / "__init__.py").read_text()
    methods = source[
        source.index("    def dequantize_weight(") : source.index("    # FIXME, optimum needs call pack()")
    ]
    scope = {"t": torch, "_torch_right_shift": torch.bitwise_right_shift}
    exec(f"class Linear:\n{methods}", scope)

    def dequantize(tensors, dtype, bits, v2):
        shifts = torch.arange(0, 32, bits, dtype=torch.int32)[None]
        layer = scope["Linear"]()
        layer.__dict__ |= {name: torch.tensor(tensors[name]) for name in ("qweight", "qzeros", "g_idx")}
        layer.__dict__ |= dict(bits=bits, pack_factor=32 // bits, maxq=2**bits - 1, in_features=64, planar=False)
        layer.__dict__ |= dict(wf_unsqueeze_zero=shifts[None], wf_unsqueeze_neg_one=shifts[..., None])
        layer.dequant_dtype = torch.int16 if bits == 8 else torch.int8
        layer.scales = torch.tensor(tensors["scales"]).to(dtype)
        layer._init_wf_unsqueeze_buffers = lambda: None
        layer.qzeros = layer.qzeros + (0 if v2 else ADDED[bits])
        return layer.dequantize_weight()

    return dequantize


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
