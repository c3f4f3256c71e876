"""Entries of packed weights, tensors of every dtype, and formats expanded by their plain definition."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import tiny

from ellm.checkpoint.loader import load_weights
from ellm.kernels.formats import FORMATS
from ellm.scheduler.contents import NamedTensor, Source, WeightEntry
from ellm.scheduler.placement import Placement

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
DTYPES = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F8_E4M3": "u1", "U8": "u1"}


def source(name, shape, scales=None, **rest) -> Source:
    """A source; `scales` are (name, shape)."""
    return Source(name, tuple(shape), scales=scales and NamedTensor(scales[0], tuple(scales[1])), **rest)


def matrix(name, sources, runs, k, n_tiles, task_tiles=2, format="bf16", experts=None, **rest) -> WeightEntry:
    """An entry of tiles; `sources` are Sources or (name, shape)."""
    k_tiles = -(-k // 32)
    size = n_tiles * FORMATS[format].column_bytes(k_tiles)
    if experts:
        stride = -(-size // 4096) * 4096
        rest |= {"experts": experts, "bank_stride": stride}
        size = experts * stride
    rest |= {"sources": tuple(one if isinstance(one, Source) else source(*one, format=format) for one in sources)}
    rest |= {"runs": tuple(map(tuple, runs)), "n_tiles": n_tiles, "k_tiles": k_tiles, "task_tiles": task_tiles}
    return WeightEntry(name, "tiles", size, format=format, k=k, **rest)


def floats(name, count, layout="vector", runs=(), **rest) -> WeightEntry:
    return WeightEntry(name, layout, 4 * count, runs=tuple(map(tuple, runs)), **rest)


def program(weights):
    """A stand-in that has what the loader reads: weights at 4096-aligned offsets."""
    offset, placed = 0, []
    for weight in weights:
        placed.append(replace(weight, offset=offset))
        offset += -(-weight.bytes // 4096) * 4096
    return SimpleNamespace(weights=placed, weights_bytes=offset)


def load(program, checkpoint, cores, progress=None) -> np.ndarray:
    region = np.zeros(program.weights_bytes, np.uint8)
    load_weights(program.weights, checkpoint, region.ctypes.data, Placement(cores), progress)
    return region


def write_checkpoint(folder, tensors) -> Path:
    """A checkpoint without layers of `tensors`, name -> (dtype, array of the stored bits or numbers)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tiny.write_json(folder / "config.json", {"num_hidden_layers": 0})
    header, end = {}, 0
    for name, (dtype, array) in tensors.items():
        begin, end = end, end + array.size * np.dtype(DTYPES[dtype]).itemsize
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for dtype, array in tensors.values():
            file.write(np.ascontiguousarray(array).astype(DTYPES[dtype]).tobytes())
    return folder


def e4m3(code: int) -> float:
    """One sign, four exponent (bias 7) and three mantissa bits; no infinities, the largest code is NaN."""
    sign, exponent, mantissa = (-1) ** (code >> 7), code >> 3 & 15, code & 7
    if code & 0x7F == 0x7F:
        return float("nan")
    return sign * (2.0 ** (exponent - 7) * (1 + mantissa / 8) if exponent else 2.0**-6 * mantissa / 8)


def to_bf16(values) -> np.ndarray:
    """float32 rounded to bf16, as float32."""
    return tiny.from_bf16(tiny.to_bf16(values))


def expand_fp8(codes, scales) -> np.ndarray:
    """float32 [rows, k] on the grid of bf16 of E4M3 codes [rows, k] and scales [ceil(rows / 128), ceil(k / 128)]."""
    values = np.array([e4m3(code) for code in range(256)], np.float32)[codes]
    rows, k = codes.shape
    return to_bf16(values * scales.astype(np.float32).repeat(128, 0).repeat(128, 1)[:rows, :k])


def expand_mxfp4(blocks, scales) -> np.ndarray:
    """float32 [..., rows, k] of blocks [..., rows, k / 32, 16] and scales [..., rows, k / 32]."""
    lut = np.array(E2M1 + [-value for value in E2M1])
    values = np.empty((*blocks.shape, 2))
    values[..., 0] = lut[blocks & 15]
    values[..., 1] = lut[blocks >> 4]
    scaled = values * 2.0 ** (scales.astype(float) - 127)[..., None, None]
    return to_bf16(scaled.astype(np.float32).reshape(*scales.shape[:-1], -1))


def expand_packed(weight, region, index=0) -> np.ndarray:
    """One matrix of a packed weight as float32 [16 * n_tiles, 32 * k_tiles], read as task.h defines its format."""
    start = weight.offset + index * weight.bank_stride
    n_tiles, k_tiles = weight.n_tiles, weight.k_tiles
    format = weight.format
    size = FORMATS[format].column_bytes(k_tiles)
    out = np.zeros((16 * n_tiles, 32 * k_tiles), np.float32)
    for tile in range(n_tiles):
        column = region[start + tile * size : start + (tile + 1) * size]
        out[16 * tile : 16 * tile + 16] = _EXPAND[format](column)[:, : 32 * k_tiles]
    return out


def _expand_plain(dtype):
    def expand(column):
        numbers = column.view(dtype).reshape(-1, 16, 16, 2)  # k tile, k pair, n, k of the pair
        numbers = numbers.transpose(2, 0, 1, 3).reshape(16, -1)
        return tiny.from_bf16(numbers) if dtype == np.uint16 else numbers.astype(np.float32)

    return expand


def _expand_fp8(column):
    blocks = column.reshape(-1, 64 + 4 * 512)
    scales = np.ascontiguousarray(blocks[:, :64]).view(np.float32)  # k block, n
    codes = blocks[:, 64:].reshape(-1, 64, 16, 2).transpose(2, 0, 1, 3).reshape(16, -1)
    values = np.array([e4m3(code) for code in range(256)], np.float32)[codes]
    return to_bf16(values * scales.T.repeat(128, 1))


def _expand_mxfp4(column):
    blocks = column.reshape(-1, 64 + 4 * 256)
    scales = blocks[:, :64].reshape(-1, 16).T  # n, k group
    words = blocks[:, 64:].reshape(-1, 4, 16, 4)[..., [0, 2, 1, 3]]  # k tile, word, n, byte by its first k
    codes = np.concatenate((words & 15, words >> 4), -1).transpose(2, 0, 1, 3).reshape(16, -1, 32)
    return expand_mxfp4(codes[..., ::2] | codes[..., 1::2] << 4, scales)


_EXPAND = {
    "bf16": _expand_plain(np.uint16), "f16": _expand_plain(np.float16), "fp8": _expand_fp8, "mxfp4": _expand_mxfp4,
}  # fmt: skip


def place(runs, sources, columns, k) -> np.ndarray:
    """What runs make of float32 sources [rows, k]: [columns, k rounded up to 32], zero where no run leads."""
    out = np.zeros((columns, -(-k // 32) * 32), np.float32)
    for source, first, rows, column, *step in runs:
        for i in range(rows):
            out[column + i, :k] = sources[source][first + i * (step[0] if step else 1)]
    return out


def random_fp8(random, *shape) -> np.ndarray:
    """E4M3 codes without NaN."""
    codes = random.integers(0, 256, shape, np.uint8)
    return np.where(codes & 0x7F == 0x7F, 0x80, codes).astype(np.uint8)


def random_scales(random, rows, k, *bank) -> np.ndarray:
    return (0.001 + random.random((*bank, -(-rows // 128), -(-k // 128)))).astype(np.float32)


def random_mxfp4(random, *shape) -> tuple[np.ndarray, np.ndarray]:
    """Blocks [*shape[:-1], k / 32, 16] and scales [*shape[:-1], k / 32] of a shape [..., rows, k]."""
    groups = (*shape[:-1], shape[-1] // 32)
    return random.integers(0, 256, (*groups, 16), np.uint8), random.integers(110, 130, groups, np.uint8)
