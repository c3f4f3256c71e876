"""Tiny folders whose projections are random codes in the layouts of quantised checkpoints, and what these are worth.

What they are worth is computed here in NumPy by the formulas of the packages; tests/oracle/test_quantized.py compares
these helpers with the packages themselves.
"""

import json
from pathlib import Path

import numpy as np
import tiny
from tiny_formats import E4M3, from_bf16, to_bf16

DTYPES = {dtype: item for item, dtype in tiny.SAFETENSORS.items()} | {"F8_E4M3": "uint8"}
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
"""Nibble i of a word is column AWQ_ORDER[i] of eight."""


def compressed(layout="pack-quantized", ignore=("lm_head",), **weights) -> dict:
    usual = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
    group = {"targets": ["Linear"], "weights": usual | weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "config_groups": {"group_0": group},
        "ignore": list(ignore),
        "kv_cache_scheme": None,
    }


CHANNEL = {"strategy": "channel", "group_size": None}
INT8 = compressed("int-quantized", num_bits=8, **CHANNEL)
FLOAT = compressed("float-quantized", type="float", num_bits=8, **CHANNEL)
BLOCKS = compressed("float-quantized", type="float", num_bits=8, strategy="block", block_structure=[128, 128])
OLD_FP8 = {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
ROUND = {"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True, "data_type": "int"}
FORMS = {
    "compressed-tensors pack-quantized, 4 bits, groups of 32": compressed(),
    "compressed-tensors pack-quantized, 4 bits, groups of 128": compressed(group_size=128),
    "compressed-tensors pack-quantized, 4 bits, groups of 64, with zeros": compressed(group_size=64, symmetric=False),
    "compressed-tensors int-quantized, 8 bits, a scale for each row": INT8,
    "compressed-tensors float-quantized, a scale for each row or for all": FLOAT,
    "compressed-tensors float-quantized, blocks of 128 x 128": BLOCKS,
    "fp8, blocks of 128 x 128": tiny.QUANTIZATION["fp8"],
    "fp8, fbgemm_fp8, a scale for each row or for all": OLD_FP8,
    "awq, gptq, auto-round: 4 bits, groups of 32": AWQ | {"group_size": 32},
    "awq, gptq, auto-round: 4 bits, groups of 128": AWQ | {"group_size": 128},
    "gptq, auto-round: 2 or 3 bits, groups of 128": GPTQ | {"bits": 2},
    "gptq, auto-round: 8 bits, groups of 128": GPTQ | {"bits": 8},
    "gptq with desc_act": GPTQ | {"desc_act": True},
}
"""quantization_config by what it means."""


def bits_along(numbers: np.ndarray, bits: int, axis: int) -> np.ndarray:
    """Unsigned numbers, a matrix, as a string of bits in words of 32 along an axis, int32."""
    turned = numbers.T if axis == 0 else numbers
    each = turned[..., None] >> np.arange(bits) & 1
    flat = each.reshape(len(turned), -1).astype(np.uint8)
    flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 32)))
    words = np.packbits(flat, axis=1, bitorder="little").view("<i4")
    return np.ascontiguousarray(words.T if axis == 0 else words)


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 as the nearest numbers of a dtype, float32."""
    if dtype == "BF16":
        return from_bf16(to_bf16(values))
    return values.astype(np.float16).astype(np.float32) if dtype == "F16" else values.astype(np.float32)


def stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 as what a file of that dtype holds."""
    return {"BF16": to_bf16, "F16": np.float16, "F32": np.float32}[dtype](values)


def random_scales(random, shape: tuple[int, ...], dtype: str, size: float = 0.01) -> np.ndarray:
    """float32, positive, numbers of that dtype."""
    return rounded((size * (0.2 + random.random(shape))).astype(np.float32), dtype)


def pack_quantized(
    random, n, k, number, *, bits=4, group=32, zeros=False, scale=None, order=False
) -> tuple[dict, np.ndarray]:
    """compressed-tensors: suffix -> tensor of a weight [n, k], and its worth."""
    scale = scale or number
    group = group or k
    count = -(-k // group)
    codes, half = random.integers(0, 1 << bits, (n, k)), 1 << bits - 1
    scales = random_scales(random, (n, count), scale, 0.08 / 2**bits)
    zero = random.integers(0, 1 << bits, (n, count)) if zeros else np.full((n, count), half)
    of = random.permutation(np.arange(k) // group) if order else np.arange(k) // group
    found = {
        "weight_packed": bits_along(codes, bits, 1),
        "weight_scale": stored(scales, scale),
        "weight_shape": np.array([n, k]),
    }
    if zeros:
        found["weight_zero_point"] = bits_along(zero, bits, 0)
    if order:
        found["weight_g_idx"] = of.astype(np.int32)
    worth = (codes - zero[:, of]).astype(np.float32) * scales[:, of]
    return found, rounded(rounded(worth, scale), number)


def int_quantized(random, n, k, number, *, scale=None, shape=None, zeros=False) -> tuple[dict, np.ndarray]:
    """compressed-tensors w8a8: signed bytes, scales of `shape`, of rows by default."""
    scale, shape = scale or number, (n, 1) if shape is None else shape
    codes, scales = random.integers(-128, 128, (n, k)), random_scales(random, shape, scale, 0.001)
    zero = random.integers(-128, 128, shape) if zeros else np.zeros(shape, int)
    found = {"weight": codes.astype(np.int8), "weight_scale": stored(scales, scale)}
    if zeros:
        found["weight_zero_point"] = zero.astype(np.int8)
    worth = (codes - zero.reshape(-1, 1)).astype(np.float32) * scales.reshape(-1, 1)
    return found, rounded(rounded(worth, scale), number)


def fp8(random, n, k, number, *, scale="F32", shape=None, name="weight_scale") -> tuple[dict, np.ndarray]:
    """FP8 whose scales are of `shape`: of rows by default, (1,) for all, or "blocks"."""
    codes = random.integers(0, 256, (n, k), np.uint8)
    codes[codes & 0x7F == 0x7F] = 0
    shape = (n, 1) if shape is None else (-(-n // 128), -(-k // 128)) if shape == "blocks" else shape
    scales = random_scales(random, shape, scale, 0.001)
    values = np.where(codes > 127, -1, 1) * E4M3[codes & 0x7F]
    blocks = len(shape) == 2 and shape != (n, 1)
    each = scales.repeat(128, 0).repeat(128, 1)[:n, :k] if blocks else scales.reshape(-1, 1)
    worth = values.astype(np.float32) * each
    if not blocks:
        worth = rounded(worth, scale)
    return {"weight": codes, name: stored(scales, scale)}, rounded(worth, number)


def gptq(random, n, k, number, *, bits=4, group=128, v2=False, order=False, scale="F16") -> tuple[dict, np.ndarray]:
    """GPTQ: zeros are stored less one, but in its second version."""
    group = group or k
    count = -(-k // group)
    codes, zero = random.integers(0, 1 << bits, (k, n)), random.integers(1, 1 << bits, (count, n))
    scales = random_scales(random, (count, n), scale, 0.08 / 2**bits)
    of = random.permutation(np.arange(k) // group) if order else np.arange(k) // group
    found = {
        "qweight": bits_along(codes, bits, 0),
        "qzeros": bits_along(zero - (not v2), bits, 1),
        "scales": stored(scales, scale),
        "g_idx": of.astype(np.int32),
    }
    return found, rounded((codes - zero[of]).astype(np.float32) * rounded(scales, number)[of], number).T


def awq(random, n, k, number, *, group=64) -> tuple[dict, np.ndarray]:
    """AWQ in the layout of its gemm kernel."""
    group = group or k
    count = -(-k // group)
    codes, zero = random.integers(0, 16, (k, n)), random.integers(0, 16, (count, n))
    scales = random_scales(random, (count, n), "F16", 0.005)
    packed = [bits_along(x.reshape(len(x), -1, 8)[..., AWQ_ORDER].reshape(len(x), -1), 4, 1) for x in (codes, zero)]
    found = {"qweight": packed[0], "qzeros": packed[1], "scales": stored(scales, "F16")}
    of = np.arange(k) // group
    return found, rounded((codes - zero[of]).astype(np.float32) * rounded(scales, number)[of], number).T


def write_pair(
    folder, architecture, layout, quantization, *, number="BF16", kept=(), layers=2, shards=1, seed=0, **options
):
    """Two folders: projections in a layout, and as the numbers that these mean. `kept` are parts of names of others."""
    config = {key: options.pop(key) for key in [*options] if key not in layout.__kwdefaults__}
    config = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32} | config
    plain = tiny.write_checkpoint(
        Path(folder) / "plain",
        architecture,
        layers=layers,
        precision="f16" if number == "F16" else None,
        seed=seed,
        **config,
    )
    quantized = Path(folder) / "quantized"
    quantized.mkdir()
    weights = read(plain / "model.safetensors")
    codes, numbers = {}, {}
    for place, (name, values) in enumerate(weights.items()):
        if not name.endswith("_proj.weight") or any(part in name for part in kept):
            codes[name] = numbers[name] = values
            continue
        tensors, worth = layout(np.random.default_rng([seed, place]), *values.shape, number, **options)
        codes |= {f"{name.removesuffix('weight')}{suffix}": tensor for suffix, tensor in tensors.items()}
        numbers[name] = stored(worth, number)
    for file in plain.iterdir():
        if file.suffix != ".safetensors":
            (quantized / file.name).write_bytes(file.read_bytes())
    settings = json.loads((plain / "config.json").read_text())
    tiny.write_json(quantized / "config.json", settings | {"quantization_config": quantization})
    tiny.write_weights(plain, numbers, 1)
    tiny.write_weights(quantized, codes, shards)
    return quantized, plain


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file as `tiny` has them: bf16 as uint16."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    del header["__metadata__"]
    found = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        items = np.frombuffer(data[begin + first : begin + last], DTYPES[entry["dtype"]])
        found[name] = items.reshape(entry["shape"])
    return found
