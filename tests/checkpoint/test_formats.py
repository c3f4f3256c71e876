"""Packed weights of every format, expanded by the plain definition, equal the checkpoint's, edges included."""

import os
from dataclasses import replace

import numpy as np
import pytest
import tiny
from packed_weights import (
    expand_fp8,
    expand_mxfp4,
    expand_packed,
    floats,
    load,
    matrix,
    place,
    program,
    random_fp8,
    random_mxfp4,
    random_scales,
    source,
    write_checkpoint,
)  # fmt: skip

from ellm.checkpoint import open_checkpoint, pieces

CORES = sorted(os.sched_getaffinity(0))[:2]
BLOCKS = [1, 5000, 1 << 18]


@pytest.fixture
def random():
    return np.random.default_rng(7)


@pytest.fixture(params=BLOCKS, autouse=True)
def block(request, monkeypatch):
    monkeypatch.setattr(pieces, "_BLOCK_BYTES", request.param)


def packed(folder, tensors, weights, workers=3):
    """The region that these weights are loaded to, and the weights with their offsets."""
    placed = program(weights)
    with open_checkpoint(write_checkpoint(folder, tensors)) as checkpoint:
        return load(placed, checkpoint, [CORES[i % len(CORES)] for i in range(workers)]), placed.weights


def gate_up_runs(width):
    """Two sources, tile by tile."""
    return [[j, row, min(16, width - row), 2 * row + 16 * j] for row in range(0, width, 16) for j in range(2)]


def interleaved_runs(width):
    """One source whose even rows are gate, its odd rows up."""
    return [[0, 2 * row + j, min(16, width - row), 2 * row + 16 * j, 2] for row in range(0, width, 16) for j in (0, 1)]


def fp8_source(name, rows, k, **rest):
    return source(name, [rows, k], (f"{name}_scale_inv", [-(-rows // 128), -(-k // 128)]), **rest)


@pytest.mark.parametrize("rows, k", [(576, 300), (128, 128), (129, 129), (1, 1), (40, 257), (300, 31)])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_fp8_blocks_of_any_size(tmp_path, random, rows, k, dtype):
    codes, scales = random_fp8(random, rows, k), random_scales(random, rows, k)
    stored = tiny.to_bf16(scales) if dtype == "BF16" else scales
    scales = tiny.from_bf16(stored) if dtype == "BF16" else scales.astype({"F32": "f4", "F16": "f2"}[dtype])
    weight = matrix("w", [fp8_source("w", rows, k)], [[0, 0, rows, 0]], k, -(-rows // 16), format="fp8")
    region, (weight,) = packed(tmp_path, {"w": ("F8_E4M3", codes), "w_scale_inv": (dtype, stored)}, [weight])
    expected = place(weight.runs, [expand_fp8(codes, scales)], 16 * weight.n_tiles, k)
    np.testing.assert_array_equal(expand_packed(weight, region), expected)


def test_every_fp8_code(tmp_path):
    codes = np.array([code for code in range(256) if code & 0x7F != 0x7F], np.uint8).reshape(1, -1).repeat(3, 0)
    scales = np.array([[1.0, 2.0**-130]], np.float32)
    weight = matrix("w", [fp8_source("w", 3, 254)], [[0, 0, 3, 0]], 254, 1, format="fp8")
    region, (weight,) = packed(tmp_path, {"w": ("F8_E4M3", codes), "w_scale_inv": ("F32", scales)}, [weight])
    np.testing.assert_array_equal(expand_packed(weight, region)[:3, :254], expand_fp8(codes, scales))


def test_fp8_joined_heads(tmp_path, random):
    """q, k and v of heads of 24 rows, each head padded to two tiles: rows of one scale land in many columns."""
    k, sizes = 200, {"q": 240, "k": 144, "v": 144}
    tensors, expanded = {}, []
    for name, rows in sizes.items():
        codes, scales = random_fp8(random, rows, k), random_scales(random, rows, k)
        tensors |= {name: ("F8_E4M3", codes), f"{name}_scale_inv": ("F32", scales)}
        expanded.append(expand_fp8(codes, scales))
    heads = [(source, i) for source, rows in enumerate(sizes.values()) for i in range(rows // 24)]
    runs = [[source, 24 * i, 24, 32 * at] for at, (source, i) in enumerate(heads)]
    sources = [fp8_source(name, rows, k) for name, rows in sizes.items()]
    weight = matrix("qkv", sources, runs, k, 2 * len(heads), 4, format="fp8")
    region, (weight,) = packed(tmp_path, tensors, [weight])
    np.testing.assert_array_equal(expand_packed(weight, region), place(runs, expanded, 32 * len(heads), k))


@pytest.mark.parametrize("workers", [1, 3, 17])
@pytest.mark.parametrize("format", ["bf16", "f16", "fp8"])
def test_bank_of_named_experts(tmp_path, random, format, workers):
    experts, width, k = 5, 200, 136
    tensors, expanded = {}, []
    for expert in range(experts):
        expanded.append([])
        for part in ("gate", "up"):
            name = f"experts.{expert}.{part}"
            if format == "fp8":
                codes, scales = random_fp8(random, width, k), random_scales(random, width, k)
                tensors |= {name: ("F8_E4M3", codes), f"{name}_scale_inv": ("F32", scales)}
                expanded[-1].append(expand_fp8(codes, scales))
            else:
                numbers = random.normal(size=(width, k)).astype(np.float32)
                stored = tiny.to_bf16(numbers) if format == "bf16" else numbers.astype(np.float16)
                tensors[name] = (format.upper(), stored)
                expanded[-1].append(tiny.from_bf16(stored) if format == "bf16" else stored.astype(np.float32))
    sources = [fp8_source(f"experts.{{expert}}.{part}", width, k) for part in ("gate", "up")]
    if format != "fp8":
        sources = [replace(one, scales=None) for one in sources]
    weight = matrix("bank", sources, gate_up_runs(width), k, 26, format=format, experts=experts)
    region, (weight,) = packed(tmp_path, tensors, [weight], workers)
    for expert in range(experts):
        expected = place(weight.runs, expanded[expert], 16 * 26, k)
        np.testing.assert_array_equal(expand_packed(weight, region, expert), expected)


@pytest.mark.parametrize("format", ["mxfp4", "bf16"])
@pytest.mark.parametrize("width, k", [(40, 288), (24, 32), (16, 160)])
def test_stacked_mxfp4_with_interleaved_rows(tmp_path, random, width, k, format):
    """gpt-oss: [experts, 2 * width, k / 32, 16], gate and up rows by turns; packed as stored or expanded to bf16."""
    experts, n_tiles = 3, 2 * -(-width // 16)
    blocks, scales = random_mxfp4(random, experts, 2 * width, k)
    scales_of = "gate_up_proj_scales", [experts, 2 * width, k // 32]
    stored = source("gate_up_proj_blocks", [experts, 2 * width, k // 32, 16], scales_of, stacked=True)
    weight = matrix("bank", [stored], interleaved_runs(width), k, n_tiles, format=format, experts=experts)
    tensors = {"gate_up_proj_blocks": ("U8", blocks), "gate_up_proj_scales": ("U8", scales)}
    region, (weight,) = packed(tmp_path, tensors, [weight])
    expanded = expand_mxfp4(blocks, scales)
    for expert in range(experts):
        expected = place(weight.runs, [expanded[expert]], 16 * n_tiles, k)
        np.testing.assert_array_equal(expand_packed(weight, region, expert), expected)


def test_every_scale_of_mxfp4(tmp_path, random):
    """Scale 0 is 2^-127 and makes subnormal numbers; 252 is the largest whose products are all finite."""
    rows, k = 127, 64
    blocks, _ = random_mxfp4(random, rows, k)
    scales = np.minimum(np.arange(2 * rows), 252).astype(np.uint8).reshape(rows, 2)
    weight = matrix("w", [source("w", [rows, 2, 16], ("s", [rows, 2]))], [[0, 0, rows, 0]], k, 8, format="mxfp4")
    region, (weight,) = packed(tmp_path, {"w": ("U8", blocks), "s": ("U8", scales)}, [weight])
    np.testing.assert_array_equal(expand_packed(weight, region)[:rows], expand_mxfp4(blocks, scales))


@pytest.mark.parametrize("format", ["mxfp4", "bf16"])
@pytest.mark.parametrize("k", [40, 63])
def test_mxfp4_that_ends_within_a_block(tmp_path, random, k, format):
    blocks, scales = random_mxfp4(random, 20, 64)
    weight = matrix("w", [source("w", [20, 2, 16], ("s", [20, 2]))], [[0, 0, 20, 0]], k, 2, format=format)
    region, (weight,) = packed(tmp_path, {"w": ("U8", blocks), "s": ("U8", scales)}, [weight])
    np.testing.assert_array_equal(expand_packed(weight, region)[:20, :k], expand_mxfp4(blocks, scales)[:, :k])


def test_stacked_transposed_bf16(tmp_path, random):
    """gpt-oss without quantisation: [experts, in, out] with gate and up columns by turns."""
    experts, width, k = 3, 40, 150
    bits = tiny.to_bf16(random.normal(size=(experts, k, 2 * width)).astype(np.float32))
    stored = source("gate_up_proj", [experts, k, 2 * width], stacked=True, transposed=True)
    weight = matrix("bank", [stored], interleaved_runs(width), k, 6, experts=experts)
    region, (weight,) = packed(tmp_path, {"gate_up_proj": ("BF16", bits)}, [weight])
    for expert in range(experts):
        expected = place(weight.runs, [tiny.from_bf16(bits[expert]).T], 96, k)
        np.testing.assert_array_equal(expand_packed(weight, region, expert), expected)


def kv_b_weights(heads, nope, value, latent, format, unaligned_format):
    """W_UK, q' = W_UK^T q per head, and W_UV, v = W_UV c per head, of kv_b [heads * (nope + value), latent]."""
    stored = fp8_source("kv_b", heads * (nope + value), latent, head_rows=nope + value)
    if format != "fp8":
        stored = replace(stored, scales=None)
    return [
        matrix(
            "uk", [replace(stored, transposed=True)], [[0, 0, latent, 0]], nope, -(-latent // 16),
            format=unaligned_format, experts=heads, one_group=True,
        ),
        matrix(
            "uv", [stored], [[0, nope, value, 0]], latent, -(-value // 16), format=format, experts=heads, one_group=True
        ),
    ]  # fmt: skip


@pytest.mark.parametrize("workers", [1, 4, 7])
@pytest.mark.parametrize(
    "nope, value, format, transposed_format",
    [
        (128, 128, "fp8", "fp8"),
        (300, 84, "fp8", "fp8"),
        (24, 40, "fp8", "bf16"),
        (33, 16, "bf16", "bf16"),
        (24, 40, "f16", "f16"),
    ],
)
def test_heads_of_kv_b(tmp_path, random, nope, value, format, transposed_format, workers):
    heads, latent = 3, 144
    shape = heads * (nope + value), latent
    if format == "fp8":
        codes, scales = random_fp8(random, *shape), random_scales(random, *shape)
        tensors = {"kv_b": ("F8_E4M3", codes), "kv_b_scale_inv": ("F32", scales)}
        expanded = expand_fp8(codes, scales)
    else:
        numbers = random.normal(size=shape).astype(np.float32)
        bits = tiny.to_bf16(numbers) if format == "bf16" else numbers.astype(np.float16)
        tensors = {"kv_b": (format.upper(), bits)}
        expanded = tiny.from_bf16(bits) if format == "bf16" else bits.astype(np.float32)
    uk, uv = kv_b_weights(heads, nope, value, latent, format, transposed_format)
    region, (uk, uv) = packed(tmp_path, tensors, [uk, uv], workers)
    by_head = expanded.reshape(heads, nope + value, latent)
    for head in range(heads):
        expected = place(uk.runs, [by_head[head, :nope].T], 16 * uk.n_tiles, nope)
        np.testing.assert_array_equal(expand_packed(uk, region, head), expected)
        expected = place(uv.runs, [by_head[head]], 16 * uv.n_tiles, latent)
        np.testing.assert_array_equal(expand_packed(uv, region, head), expected)


def test_unaligned_fp8_blocks_are_refused(tmp_path, random):
    codes, scales = random_fp8(random, 3 * 64, 144), random_scales(random, 3 * 64, 144)
    weights = kv_b_weights(3, 24, 40, 144, "fp8", "fp8")
    tensors = {"kv_b": ("F8_E4M3", codes), "kv_b_scale_inv": ("F32", scales)}
    with pytest.raises(ValueError, match="uk: k begins at 64 of kv_b, must be a multiple of 128"):
        packed(tmp_path, tensors, weights, 1)


def test_first_k(tmp_path, random):
    """The second 160 columns of a tensor by themselves."""
    codes, scales = random_fp8(random, 50, 288), random_scales(random, 50, 288)
    bits = tiny.to_bf16(random.normal(size=(50, 288)).astype(np.float32))
    weights = [
        matrix("f", [fp8_source("f", 50, 288, first_k=128)], [[0, 0, 50, 0]], 160, 4, format="fp8"),
        matrix("b", [source("b", [50, 288], first_k=99)], [[0, 0, 50, 0]], 160, 4),
    ]
    tensors = {"f": ("F8_E4M3", codes), "f_scale_inv": ("F32", scales), "b": ("BF16", bits)}
    region, weights = packed(tmp_path, tensors, weights)
    np.testing.assert_array_equal(expand_packed(weights[0], region)[:50], expand_fp8(codes, scales)[:, 128:])
    np.testing.assert_array_equal(expand_packed(weights[1], region)[:50], tiny.from_bf16(bits)[:, 99:259])


def test_f16_keeps_every_bit(tmp_path):
    """Numbers that bf16 has not, subnormals and infinities among them."""
    bits = np.arange(65536, dtype=np.uint16)
    numbers = bits[(bits & 0x7FFF) <= 0x7C00].view(np.float16).reshape(-1, 2)
    weight = matrix(
        "w", [("w", list(numbers.shape))], [[0, 0, len(numbers), 0]], 2, -(-len(numbers) // 16), format="f16"
    )
    region, (weight,) = packed(tmp_path, {"w": ("F16", numbers)}, [weight])
    np.testing.assert_array_equal(expand_packed(weight, region)[: len(numbers), :2], numbers.astype(np.float32))


def test_bank_of_vectors(tmp_path, random):
    """Biases [experts, 2 * width] in the order of interleaved gate and up columns."""
    experts, width = 5, 40
    bits = tiny.to_bf16(random.normal(size=(experts, 2 * width)).astype(np.float32))
    named = {f"{expert}.bias": ("BF16", bits[expert]) for expert in range(experts)}
    stacked = source("bias", [experts, 2 * width], stacked=True)
    vectors = [
        floats("bias", 112 * experts, experts=experts, bank_stride=448, sources=(one,), runs=interleaved_runs(width))
        for one in (stacked, source("{expert}.bias", [2 * width]))
    ]
    region, vectors = packed(tmp_path, named | {"bias": ("BF16", bits)}, vectors)
    values = tiny.from_bf16(bits)
    for vector in vectors:
        stored = region[vector.offset : vector.offset + vector.bytes].view(np.float32).reshape(experts, 112)
        for expert in range(experts):
            expected = place(vector.runs, [values[expert][:, None]], 112, 1)[:, 0]
            np.testing.assert_array_equal(stored[expert], expected)
