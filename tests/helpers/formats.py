"""Packed weights of every format, made from random codes, and what they are worth."""

import gguf
import numpy as np
from harness import Memory, pack_weight, up

from ellm.kernels.formats import FORMATS, NUMBERED, Format
from ellm.kernels.gguf_blocks import BLOCKS
from ellm.kernels.layout import to_bf16
from ellm.kernels.pack import pack_codes, pack_scales
from ellm.kernels.spill import Spill

BF16, F16, FP8, MXFP4 = (FORMATS[name].number for name in ("bf16", "f16", "fp8", "mxfp4"))
PACKED = FORMATS["bf12"]
BF12 = PACKED.number
BLOCKED = [format.number for format in NUMBERED if format.stored.blocks]
INTEGERS = [format.number for format in NUMBERED if format.stored.joined]
IN_TERMS = [format.number for format in NUMBERED if format.terms > 1]
NAMES = {format.stored.dtype: format.name for format in FORMATS.values() if format.stored.blocks}
_HALVES = {
    "Q4_1": (0, 2),
    "Q5_1": (0, 2),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q2_K": (80, 82),
    "Q6_K": (208,),
    "Q3_K": (108,),
}


def in_tiles(x: np.ndarray) -> np.ndarray:
    """[n, k], n and k whole blocks, as [n tile, block, k tile, k pair, n, k of the pair]."""
    return x.reshape(x.shape[0] // 16, 16, -1, 4, 16, 2).transpose(0, 2, 3, 4, 1, 5)


def pad(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
    out = np.zeros((rows, columns), x.dtype)
    out[: x.shape[0], : x.shape[1]] = x
    return out


def in_words(x: np.ndarray) -> np.ndarray:
    """4-bit codes [n, k], n and k whole blocks, as words [n tile, block, k tile, word, n], bytes last."""
    eights = x.reshape(x.shape[0] // 16, 16, -1, 4, 4, 8).transpose(0, 2, 3, 4, 1, 5)
    neighbours = eights.reshape(*eights.shape[:-1], 2, 2, 2)  # byte 0, 2, 1, 3 has codes 0, 1, 2, 3, and four more
    return (neighbours[..., 0, :, :] | neighbours[..., 1, :, :] << 4).swapaxes(-1, -2).reshape(*eights.shape[:-1], 4)


def pack_fp8(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """uint8 [n, k] and f32 [n, ceil(k / 128)] as a packed weight, bytes [n_tiles, blocks, bytes of a block]."""
    n, blocks = up(codes.shape[0], 16), scales.shape[1]
    tiles = in_tiles(pad(codes, n, 128 * blocks)).reshape(n // 16, blocks, -1)
    heads = pad(scales, n, blocks).reshape(n // 16, 16, blocks).transpose(0, 2, 1).copy().view(np.uint8)
    return np.concatenate((heads, tiles), -1)


def pack_mxfp4(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """4-bit codes in uint8 [n, k] and uint8 [n, ceil(k / 32)] as a packed weight, bytes likewise."""
    n, blocks = up(codes.shape[0], 16), -(-codes.shape[1] // 128)
    words = in_words(pad(codes, n, 128 * blocks)).reshape(n // 16, blocks, -1)
    heads = (
        pad(scales, n, 4 * blocks).reshape(n // 16, 16, blocks, 4).transpose(0, 2, 3, 1).reshape(n // 16, blocks, 64)
    )
    return np.concatenate((heads, words), -1)


def pack_f16(w: np.ndarray) -> np.ndarray:
    """float16 [n, k] as a packed weight."""
    n, k = up(w.shape[0], 16), up(w.shape[1], 32)
    return pad(w, n, k).reshape(n // 16, 16, k // 32, 16, 2).transpose(0, 2, 3, 1, 4)


def random_blocks(name: str, n: int, k: int, random: np.random.Generator) -> np.ndarray:
    """Blocks of a type of GGUF of any codes and ordinary f16, uint8 [n, bytes of a row]."""
    kind = BLOCKS[name]
    blocks = random.integers(0, 256, (n, -(-k // kind.k), kind.bytes), np.uint8)
    if name == "MXFP4":
        blocks[..., 0] = random.integers(100, 140, blocks.shape[:2])
        return blocks.reshape(n, -1)
    for at in _HALVES.get(name, (0,)):
        numbers = (random.standard_normal(blocks.shape[:2]) * 2.0 ** random.integers(-14, 3)).astype("<f2")
        blocks[..., at : at + 2] = numbers[..., None].view(np.uint8)
    return blocks.reshape(n, -1)


def dequantized(name: str, rows: np.ndarray) -> np.ndarray:
    """What the gguf package makes of rows of blocks, float32 [n, k]."""
    return gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[name])


def pack_blocks(name: str, rows: np.ndarray) -> np.ndarray:
    """Rows of blocks as a packed weight, bytes [n_tiles, bytes of a column tile]."""
    kind, format = BLOCKS[name], FORMATS[NAMES[name]]
    parts = kind.split(rows.reshape(-1, kind.bytes))
    return pack_parts(format, parts.pop("codes").reshape(len(rows), -1), parts)


def pack_parts(format: Format, codes: np.ndarray, parts: dict[str, np.ndarray]) -> np.ndarray:
    """Codes [n, k] and the parts of headers [n, groups] as a packed weight, bytes [n_tiles, bytes of a column tile]."""
    k_tiles = up(codes.shape[1], 32) // 32
    packed = np.zeros((up(len(codes), 16) // 16, format.column_bytes(k_tiles)), np.uint8)
    runs = np.array([[0, 0, len(codes), 0, 1]])
    pack_codes(np.ascontiguousarray(codes), 0, runs, packed.ctypes.data, format.name, k_tiles)
    for part, numbers in parts.items():
        numbers = np.ascontiguousarray(numbers).reshape(len(codes), -1)
        pack_scales(numbers, 1, 0, len(codes), 0, runs, packed.ctypes.data, format.name, k_tiles, part=part)
    return packed


def random_integers(format: Format, n: int, k: int, random: np.random.Generator) -> np.ndarray:
    """A packed weight [n, k] of any codes and zeros and scales of ordinary size; some f16 results are subnormal."""
    codes = pad(random.integers(0, 1 << format.bits, (n, k), np.uint8), n, up(k, 8))
    groups = (n, -(-k // format.k_per_scale))
    scales = random.standard_normal(groups) * 2.0 ** random.integers(-22, 2, groups)
    parts = {"scale": to_bf16(scales) if format.scale == np.uint16 else scales.astype(np.float16).view(np.uint16)}
    if format.zero:
        parts["zero"] = (
            random.integers(0, 256, groups, np.uint8)
            if format.bits == 8
            else random.integers(-8, 8, groups).astype(np.uint8)
        )
    return pack_parts(format, codes, parts)


def random_weight(format: int, n: int, k: int, random: np.random.Generator, any_scale: bool = False) -> np.ndarray:
    """A packed weight of random numbers of ordinary size. `any_scale`: every E8M0 and far FP8 scales too."""
    if format == BF16:
        return pack_weight(random.standard_normal((n, k)).astype(np.float32))
    if format == BF12:
        return pack_bf12(to_bf16(random.standard_t(3, (n, k)).astype(np.float32)))
    if format == F16:
        return pack_f16((random.standard_normal((n, k)) * 2.0 ** random.integers(-18, 3, (n, k))).astype(np.float16))
    if format == FP8:
        codes = random.integers(0, 256, (n, k), np.uint8)
        scales = random.uniform(0.1, 1, (n, -(-k // 128))) * 10.0 ** (random.integers(-36, 34) if any_scale else -3)
        return pack_fp8(np.where(codes & 0x7F == 0x7F, 0, codes).astype(np.uint8), scales.astype(np.float32))
    if format in BLOCKED:
        name = NUMBERED[format].stored.dtype
        return pack_blocks(name, random_blocks(name, n, up(k, 32), random))
    if format in INTEGERS:
        return random_integers(NUMBERED[format], n, k, random)
    low, high = (0, 255) if any_scale else (110, 130)
    codes = random.integers(0, 16, (n, k), np.uint8)
    return pack_mxfp4(codes, random.integers(low, high, (n, -(-k // 32))).astype(np.uint8))


def numbers(packed: np.ndarray, format: int, n: int, k: int) -> np.ndarray:
    """What a packed weight of a `whole` format is worth before it is rounded to bf16, float64 [n, k]."""
    memory = Memory.of(packed)
    found = NUMBERED[format].integers(memory.address, up(n, 16) // 16, up(k, 32) // 32)
    worth = found.worth * found.factor * found.scale.astype(np.float64)
    return (worth if found.minimum is None else worth + found.least * found.minimum)[:n, :k]


def values(packed: np.ndarray, format: int, n: int, k: int) -> np.ndarray:
    """What a packed weight is worth, float32 [n, k]."""
    memory = Memory.of(packed)
    n_tiles, k_tiles = up(n, 16) // 16, up(k, 32) // 32
    assert memory.bytes.size == n_tiles * NUMBERED[format].column_bytes(k_tiles)
    return NUMBERED[format].weight(memory.address, n_tiles, k_tiles)[:n, :k].copy()


def pack_bf12(bits: np.ndarray) -> np.ndarray:
    """bf16 bits [n, k], uint16, as a packed weight in 12 bits and behind it its spill."""
    whole = pad(bits, up(bits.shape[0], 16), up(bits.shape[1], 128))
    tiles = in_tiles(whole).reshape(-1)
    blocks = tiles.size // 2048
    packed = np.zeros(blocks * (PACKED.block_bytes + PACKED.spill_bytes), np.uint8)
    spill = Spill(packed.ctypes.data + blocks * PACKED.block_bytes, blocks * PACKED.spill_bytes)
    spill.pack(tiles, packed.ctypes.data, PACKED.name)
    return packed[: blocks * PACKED.block_bytes + spill.used]
