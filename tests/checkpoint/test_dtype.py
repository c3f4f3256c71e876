"""Checkpoints packed in fewer bits than they are stored in: the codes are those of `Format.encode`."""

import os

import numpy as np
import pytest
import tiny
from model_configs import CONFIGS
from packed_logits import packed_logits
from packed_weights import (
    expand_mxfp4,
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

from ellm import LLM
from ellm.checkpoint import open_checkpoint, pieces
from ellm.dsl import compile, packing_of
from ellm.kernels.formats import FORMATS
from ellm.kernels.layout import from_bf16, to_bf16
from ellm.models import from_config
from ellm.system.errors import InputError

CORES = sorted(os.sched_getaffinity(0))[:2]
ENDS = {"model.embed_tokens.weight", "lm_head.weight"}


@pytest.fixture
def random():
    return np.random.default_rng(11)


@pytest.fixture(params=[1, 5000, 1 << 18])
def block(request, monkeypatch):
    monkeypatch.setattr(pieces, "_BLOCK_BYTES", request.param)


in_blocks = pytest.mark.usefixtures("block")


def packed(folder, tensors, weights, workers=3):
    """What these weights hold, float32 [matrices, columns, k] of each."""
    placed = program(weights)
    with open_checkpoint(write_checkpoint(folder, tensors)) as checkpoint:
        region = load(placed, checkpoint, [CORES[i % len(CORES)] for i in range(workers)])
    address = region.ctypes.data
    return [
        np.stack([
            weight.packed.weight(address + weight.offset + i * weight.bank_stride, weight.n_tiles, weight.k_tiles)
            for i in range(weight.experts)
        ])
        for weight in placed.weights
    ]  # fmt: skip


def encoded(format, values):
    """What float32 [rows, k] is worth in a format, rounded to bf16 as kernels do."""
    if format == "bf16":
        return from_bf16(to_bf16(values))
    codes, scales = FORMATS[format].encode(np.pad(values, ((0, 0), (0, -values.shape[1] % 32))))
    values_there = FORMATS[format].worths[codes] * scales.astype(np.float32).repeat(32, 1)
    return from_bf16(to_bf16(values_there))[:, : values.shape[1]]


def stored(random, dtype, rows, k):
    """Tensors of a matrix "w" [rows, k], its Source, and its numbers."""
    if dtype == "F8_E4M3":
        codes, scales = random_fp8(random, rows, k), random_scales(random, rows, k)
        one = source("w", [rows, k], ("w_scale_inv", scales.shape), format="fp8")
        tensors = {"w": (dtype, codes), "w_scale_inv": ("F32", scales)}
        values = FORMATS["fp8"].worths[codes]
        return tensors, one, values * scales.repeat(128, 0).repeat(128, 1)[:rows, :k]
    if dtype == "U8":
        blocks, scales = random_mxfp4(random, rows, k)
        one = source("w_blocks", blocks.shape, ("w_scales", scales.shape), format="mxfp4")
        return {"w_blocks": (dtype, blocks), "w_scales": (dtype, scales)}, one, expand_mxfp4(blocks, scales)
    numbers = random.normal(0, 0.02, (rows, k)).astype(np.float32)
    bits = {"F32": numbers, "F16": numbers.astype(np.float16), "BF16": tiny.to_bf16(numbers)}[dtype]
    values = tiny.from_bf16(bits) if dtype == "BF16" else bits.astype(np.float32)
    return {"w": (dtype, bits)}, source("w", [rows, k], format={"F16": "f16"}.get(dtype, "bf16")), values


@in_blocks
@pytest.mark.parametrize("format", ["iq4_nl", "q8_0", "bf16"])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F8_E4M3", "U8"])
@pytest.mark.parametrize("rows, k", [(40, 288), (33, 544), (1, 32)])
def test_from_whatever_is_stored(tmp_path, random, dtype, format, rows, k):
    tensors, one, values = stored(random, dtype, rows, k)
    weight = matrix("w", [one], [[0, 0, rows, 0]], k, -(-rows // 16), format=format)
    (found,) = packed(tmp_path, tensors, [weight])
    np.testing.assert_array_equal(found[0, :rows, :k], encoded(format, values))


@pytest.mark.parametrize("format", ["iq4_nl", "q8_0"])
def test_a_depth_that_ends_within_a_group(tmp_path, random, format):
    tensors, one, values = stored(random, "BF16", 20, 100)
    (found,) = packed(tmp_path, tensors, [matrix("w", [one], [[0, 0, 20, 0]], 100, 2, format=format)])
    np.testing.assert_array_equal(found[0, :20, :100], encoded(format, values))


@in_blocks
@pytest.mark.parametrize("workers", [1, 4, 7])
@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3"])
def test_heads_of_kv_b_whose_blocks_begin_elsewhere(tmp_path, random, dtype, workers):
    """W_UK is turned, so its groups go along the stored rows; W_UV's begin behind it."""
    heads, nope, value, latent = 3, 40, 24, 160
    tensors, one, values = stored(random, dtype, heads * (nope + value), latent)
    name, shape, scales = one.name, one.shape, one.scales and (one.scales.name, one.scales.shape)
    shared = {"head_rows": nope + value, "format": one.format}
    turned, straight = source(name, shape, scales, transposed=True, **shared), source(name, shape, scales, **shared)
    uk = matrix("uk", [turned], [[0, 0, latent, 0]], nope, 10, format="iq4_nl", experts=heads, one_group=True)
    uv = matrix("uv", [straight], [[0, nope, value, 0]], latent, 2, format="iq4_nl", experts=heads, one_group=True)
    found_uk, found_uv = packed(tmp_path, tensors, [uk, uv], workers)
    for head, part in enumerate(values.reshape(heads, nope + value, latent)):
        np.testing.assert_array_equal(found_uk[head, :, :nope], encoded("iq4_nl", np.ascontiguousarray(part[:nope].T)))
        np.testing.assert_array_equal(found_uv[head, :value, :latent], encoded("iq4_nl", part[nope:]))


@in_blocks
def test_stacked_transposed_experts_with_interleaved_rows(tmp_path, random):
    """gpt-oss without quantisation: [experts, in, out] with gate and up columns by turns."""
    experts, width, k = 3, 40, 160
    bits = tiny.to_bf16(random.normal(size=(experts, k, 2 * width)).astype(np.float32))
    one = source("gate_up_proj", [experts, k, 2 * width], stacked=True, transposed=True)
    runs = [[0, 2 * row + j, min(16, width - row), 2 * row + 16 * j, 2] for row in range(0, width, 16) for j in (0, 1)]
    weight = matrix("bank", [one], runs, k, 6, format="q8_0", experts=experts)
    (found,) = packed(tmp_path, {"gate_up_proj": ("BF16", bits)}, [weight])
    for expert in range(experts):
        expected = place(runs, [encoded("q8_0", tiny.from_bf16(bits[expert]).T.copy())], 96, k)
        np.testing.assert_array_equal(found[expert, :, :k], expected)


@pytest.mark.parametrize("number", [np.nan, np.inf, -3e38])
def test_numbers_that_have_no_code_are_refused(tmp_path, random, number):
    tensors, one, _ = stored(random, "F32", 40, 64)
    tensors["w"][1][33, 7] = number
    with pytest.raises(
        InputError, match=r"model.safetensors: w: holds (nan|inf|-3[.0-9]*e\+38), a weight must be from -.*iq4_nl$"
    ):
        packed(tmp_path, tensors, [matrix("w", [one], [[0, 0, 40, 0]], 64, 3, format="iq4_nl")])


def test_formats_that_loading_does_not_make_are_refused(tmp_path, random):
    tensors, one, _ = stored(random, "BF16", 16, 256)
    with pytest.raises(InputError, match=r"dtype is BF16, ellm makes bf16, q8_0, iq4_nl of it, not q4_k$"):
        packed(tmp_path, tensors, [matrix("w", [one], [[0, 0, 16, 0]], 256, 1, format="q4_k")])


def formats(name, dtype, precision=None):
    model = from_config({**CONFIGS[name], "hidden_size": 256, "moe_intermediate_size": 128}, precision)
    program = compile(model.graph(), context=64, packing=packing_of(dtype))
    return {entry.name: entry.format for entry in program.weights if entry.layout == "tiles"}


def test_what_a_dtype_packs():
    found = formats("qwen3_moe", "q4")
    kept = {name for name, format in found.items() if format == "bf16"}
    assert kept == ENDS | {name for name in found if name.endswith("mlp.gate.weight")}
    assert set(found.values()) == {"bf16", "iq4_nl"} and any("experts" in name for name in found.keys() - kept)


def test_head_and_embedding_if_asked():
    found = formats("llama", "q4,head=q8")
    assert {name for name, format in found.items() if format == "q8_0"} == ENDS
    assert set(found.values()) == {"q8_0", "iq4_nl"}


@pytest.mark.parametrize(
    ("stored_in", "dtype", "expected"),
    [("q4_k", "q4", "q4_k"), ("q4_1", "q4", "q4_1"), ("mxfp4", "q4", "mxfp4"), ("q5_0", "q4", "iq4_nl"),
     ("q8_0", "q4", "iq4_nl"), ("fp8", "q4", "iq4_nl"), ("fp8", "q8", "fp8"), ("q6_k", "q8", "q6_k"),
     ("f16", "q8", "q8_0"), ("q4_k", "bf16", "bf16")],
)  # fmt: skip
def test_what_has_as_few_bits_stays(stored_in, dtype, expected):
    found = formats("llama", dtype, lambda name: stored_in if "proj" in name else "bf16")
    assert {format for name, format in found.items() if name not in ENDS} == {expected}


@pytest.mark.parametrize(
    ("dtype", "error"),
    [
        ("int4", r"^dtype 'int4' is unknown: choose one of q8, q4, bf16, "),
        ("q4,q8", r"^dtype 'q4,q8' is neither NAME nor NAME,head=NAME$"),
        ("q4,head=q8,head=q4", "neither"),
        ("q4,head=x", "^dtype 'x' is unknown"),
        ("", "^dtype '' is unknown"),
    ],
)
def test_dtypes_that_there_are_not(dtype, error):
    with pytest.raises(InputError, match=error):
        packing_of(dtype)


@pytest.mark.parametrize("dtype", ["q4", "q8", "q8,head=q8"])
@pytest.mark.parametrize(
    "architecture",
    ["LlamaForCausalLM", "Qwen3MoeForCausalLM", "DeepseekV3ForCausalLM", "GptOssForCausalLM"],
)
def test_models_run(tmp_path, architecture, dtype):
    folder = tiny.write_checkpoint(tmp_path, architecture)
    found, used = packed_logits(folder, dtype)
    as_stored, _ = packed_logits(folder, None)
    assert np.isfinite(found).all() and FORMATS["q8_0" if "q8" in dtype else "iq4_nl"].name in used
    assert ("bf16" in used) == ("head" not in dtype or "Llama" not in architecture)
    assert 0.8 < np.corrcoef(found.ravel(), as_stored.ravel())[0, 1] < 1


def test_the_same_bits_on_any_number_of_threads(tmp_path):
    folder = tiny.write_checkpoint(tmp_path, "Qwen3MoeForCausalLM")
    tokens, found = [5, 7, 11, 13, 17, 19], []
    for threads, chunk in ((1, 2), (2, 64)):
        with LLM(folder, dtype="q4", threads=threads, chunk=chunk, pin="none") as llm:
            found.append(llm.logits(tokens))
            assert llm.runtime.compiled.notes(1)[0].startswith("--dtype q4: packed bf16 as iq4_nl (")
    np.testing.assert_array_equal(*found)
