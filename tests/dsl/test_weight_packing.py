"""Which checkpoint rows become which packed columns, where they lie, and how columns are cut into tasks."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from packed_weights import source
from small_models import EXPERTS, config, graph

from ellm.dsl import compile, embed, linear, logits, packing, swiglu, tiling, trace
from ellm.dsl.tensor import Weight
from ellm.models import from_config


def entries(*, architecture="LlamaForCausalLM", **overrides) -> dict:
    program = compile(graph(architecture, **overrides), context=64)
    return {entry.name: entry for entry in program.weights}


def test_joined_heads_are_padded_to_whole_tiles():
    entry = entries(num_hidden_layers=1)["model.layers.0.self_attn.{q_proj,k_proj,v_proj}.weight"]
    assert [one.shape for one in entry.sources] == [(96, 72), (48, 72), (48, 72)]
    assert entry.runs[:5] == ((0, 0, 24, 0), (0, 24, 24, 32), (0, 48, 24, 64), (0, 72, 24, 96), (1, 0, 24, 128))
    assert (entry.k, entry.k_tiles, entry.n_tiles, entry.task_tiles % 2) == (72, 3, 16, 0)


def test_heads_of_whole_tiles_are_one_run_per_source():
    assert packing.heads((4, 2, 2), 32) == ((0, 0, 128, 0), (1, 0, 64, 128), (2, 0, 64, 192))


@pytest.mark.parametrize("width", [1, 15, 16, 17, 88, 96])
def test_gate_and_up_tiles_alternate_and_cover_every_row_once(width):
    columns = np.full(32 * tiling.tiles(width), -1)
    for number, first, rows, column in packing.interleaved(width):
        assert (columns[column : column + rows] == -1).all()
        columns[column : column + rows] = number * 1000 + np.arange(first, first + rows)
    tiles = columns.reshape(-1, 2, 16)
    for number in (0, 1):
        flat = tiles[:, number].ravel()
        assert flat[:width].tolist() == list(range(number * 1000, number * 1000 + width))
        assert (flat[width:] == -1).all()


def test_tied_head_is_stored_once():
    tied, untied = entries(tie_word_embeddings=True), entries()
    assert "model.embed_tokens.weight" in tied and "lm_head.weight" not in tied
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= set(untied)


def test_bias_follows_the_packed_columns_and_an_absent_one_is_zero():
    entry = entries(architecture="Qwen2ForCausalLM")["model.layers.1.self_attn.{q_proj,k_proj,v_proj}.bias"]
    assert entry.layout == "vector" and entry.bytes == 4 * 16 * 16
    assert entry.runs[:2] == ((0, 0, 24, 0), (0, 24, 24, 32))
    region = packing.Region()
    partial = region.vector([None, Weight("b", (8,))], ((0, 0, 8, 0), (1, 0, 8, 16)), 32).entry
    assert partial.sources == (source("b", [8]),)
    assert partial.runs == ((0, 0, 8, 16),)


def test_bank_of_experts_has_one_tensor_for_each():
    bank = entries(architecture="Qwen3MoeForCausalLM")["model.layers.0.mlp.experts.{expert}.{gate_proj,up_proj}.weight"]
    expert = "model.layers.0.mlp.experts.{expert}"
    assert bank.sources == (
        source(f"{expert}.gate_proj.weight", [40, 72]),
        source(f"{expert}.up_proj.weight", [40, 72]),
    )
    assert bank.runs == (
        (0, 0, 16, 0),
        (1, 0, 16, 16),
        (0, 16, 16, 32),
        (1, 16, 16, 48),
        (0, 32, 8, 64),
        (1, 32, 8, 80),
    )
    assert (bank.experts, bank.bank_stride, bank.bytes) == (5, 20480, 5 * 20480)  # 6 x 3 KiB in whole pages
    assert (bank.k, bank.k_tiles, bank.n_tiles, bank.format) == (72, 3, 6, "bf16")
    assert not bank.one_group


def test_stacked_experts_of_interleaved_rows():
    found = entries(architecture="GptOssForCausalLM")
    bank = found["model.layers.0.mlp.experts.gate_up_proj"]
    assert bank.sources == (
        source("model.layers.0.mlp.experts.gate_up_proj", [7, 72, 176], stacked=True, transposed=True),
    )
    assert bank.runs[:4] == ((0, 0, 16, 0, 2), (0, 1, 16, 16, 2), (0, 32, 16, 32, 2), (0, 33, 16, 48, 2))
    bias = found["model.layers.0.mlp.experts.gate_up_proj_bias"]
    assert bias.sources == (source("model.layers.0.mlp.experts.gate_up_proj_bias", [7, 176], stacked=True),)
    assert (bias.runs, bias.experts, bias.bank_stride) == (bank.runs, 7, 4 * 16 * bank.n_tiles)
    down = found["model.layers.0.mlp.experts.down_proj"]
    assert (down.sources[0].shape, down.runs) == ((7, 88, 72), ((0, 0, 72, 0),))


def test_mxfp4_is_stored_as_blocks_and_scales():
    model = from_config(
        config("GptOssForCausalLM", hidden_size=96), lambda name: "mxfp4" if "experts" in name else "bf16"
    )
    program = compile(model.graph(), context=64)
    bank = next(entry for entry in program.weights if entry.format == "mxfp4")
    name = "model.layers.0.mlp.experts.gate_up_proj"
    scales = f"{name}_scales", [7, 176, 3]
    assert bank.sources == (source(f"{name}_blocks", [7, 176, 3, 16], scales, stacked=True, format="mxfp4"),)
    assert bank.bytes == 7 * bank.bank_stride and bank.bank_stride % 4096 == 0
    assert bank.bank_stride - bank.n_tiles * (64 + 4 * 256) in range(4096)  # 96 k: one block of 128


def latent(nope, v, precision):
    """The two banks of kv_b_proj of one layer."""
    model = from_config(
        config("DeepseekV3ForCausalLM", num_hidden_layers=1, kv_lora_rank=64, qk_nope_head_dim=nope, v_head_dim=v),
        lambda name: precision if "kv_b" in name else "bf16",
    )
    program = compile(model.graph(), context=64)
    return [entry for entry in program.weights if "kv_b_proj" in entry.name]


def test_a_matrix_for_each_head_is_cut_from_a_joined_tensor():
    to_keys, to_values = latent(128, 128, "fp8")
    name = "model.layers.0.self_attn.kv_b_proj.weight"
    stored = source(name, [1024, 64], (f"{name}_scale_inv", [8, 1]), head_rows=256, format="fp8")
    assert to_keys.sources == (replace(stored, transposed=True),)
    assert (to_keys.k, to_keys.runs, to_keys.format) == (128, ((0, 0, 64, 0),), "fp8")
    assert to_values.sources == (stored,)
    assert (to_values.k, to_values.runs, to_values.format) == (64, ((0, 128, 128, 0),), "fp8")
    for bank in (to_keys, to_values):
        assert bank.one_group and bank.experts == 4


def test_heads_that_scales_do_not_fit_are_expanded_to_bf16():
    to_keys, to_values = latent(64, 128, "fp8")
    assert (to_keys.format, to_values.format) == ("bf16", "fp8")
    assert to_keys.sources[0].scales


def test_parts_of_a_joined_tensor_are_rows_of_it():
    def model(tokens, w, caches):
        x = embed(tokens, w.embed[50, 16])
        gate, up = w.gate_up[48, 16].split(24, 24)
        q, kv = w.qkv[2, 3 + 5, 16].split(3, 5, dim=1)
        y = linear(swiglu(linear(x, gate), linear(x, up)), w.down[16, 24])
        return logits(
            y + linear(linear(x, q), w.q_out[16, 2, 3]) + linear(linear(x, kv), w.out[16, 2, 5]), w.head[50, 16]
        )

    program = compile(trace(model, 64), context=64)
    gate_up = next(entry for entry in program.weights if entry.name == "gate_up.weight")
    assert gate_up.sources == (source("gate_up.weight", [48, 16]),)
    assert gate_up.runs == ((0, 0, 16, 0), (0, 24, 16, 16), (0, 16, 8, 32), (0, 40, 8, 48))
    q, kv = (entry.runs for entry in program.weights if entry.name == "qkv.weight")
    assert q == ((0, 0, 3, 0), (0, 8, 3, 3))
    assert kv == ((0, 3, 5, 0), (0, 11, 5, 5))


@pytest.mark.parametrize("architecture", ["Qwen3ForCausalLM", *EXPERTS])
def test_regions_are_disjoint_and_aligned(architecture):
    placed = sorted(entries(architecture=architecture).values(), key=lambda entry: entry.offset)
    for entry, following in itertools.pairwise(placed):
        assert entry.offset + entry.bytes <= following.offset
    for entry in placed:
        assert entry.offset % (4096 if entry.layout == "tiles" else 64) == 0


@pytest.mark.parametrize("k, columns", [(64, 128), (576, 128), (1024, 128), (2048, 128), (2080, 64), (28672, 64)])
def test_task_is_a_few_streams(k, columns):
    assert 16 * tiling.task_tiles(1000, tiling.depth_tiles(k)) == columns


def test_few_tiles_are_cut_finer_and_never_exceeded():
    assert tiling.task_tiles(64, 32) == 8
    assert tiling.task_tiles(63, 32) == 4
    assert tiling.task_tiles(3, 2) == 3
    assert tiling.task_heads(8, 8, 32, 1) == 1
    assert tiling.task_heads(8, 2, 3, 1) == 2
    assert tiling.task_heads(64, 2, 3, 1) == 4
    assert tiling.task_heads(8, 12, 200, 1) == 1


@pytest.mark.parametrize(
    ("task", "n_tiles", "workers", "unit", "together", "expected"),
    [
        (8, 64, 1, 1, 1, 8),
        (8, 64, 2, 1, 1, 8),
        (4, 10, 128, 1, 1, 1),  # a router of 160 experts: a task a column tile
        (4, 128, 126, 1, 1, 2),
        (4, 128, 128, 1, 1, 2),
        (4, 384, 126, 1, 1, 4),  # 128 tasks of 3 would leave two for a round of their own
        (8, 96, 126, 2, 8, 2),
        (8, 320, 126, 2, 8, 8),
        (8, 64, 16, 2, 1, 8),
        (3, 3, 64, 1, 1, 1),
    ],
)
def test_tasks_are_cut_finer_for_many_workers(task, n_tiles, workers, unit, together, expected):
    assert tiling.finer(task, n_tiles, workers, unit, together) == expected
