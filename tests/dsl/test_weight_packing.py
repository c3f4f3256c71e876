"""Which checkpoint rows become which packed columns, where they lie, and how columns are cut into tasks."""

import itertools

import numpy as np
import pytest
from small_models import graph

from ellm.dsl import compile, packing, tiling
from ellm.dsl.tensor import Weight


def entries(*, architecture="LlamaForCausalLM", **overrides) -> dict:
    program = compile(graph(architecture, **overrides), context=64)
    return {entry["name"]: entry for entry in program.meta["weights"]}


def test_joined_heads_are_padded_to_whole_tiles():
    entry = entries(num_hidden_layers=1)["model.layers.0.self_attn.{q_proj,k_proj,v_proj}.weight"]
    assert [source["shape"] for source in entry["sources"]] == [[96, 72], [48, 72], [48, 72]]
    assert entry["runs"][:5] == [[0, 0, 24, 0], [0, 24, 24, 32], [0, 48, 24, 64], [0, 72, 24, 96], [1, 0, 24, 128]]
    assert (entry["k"], entry["k_tiles"], entry["n_tiles"], entry["task_tiles"] % 2) == (72, 3, 16, 0)


def test_heads_of_whole_tiles_are_one_run_per_source():
    assert packing.heads((4, 2, 2), 32) == ((0, 0, 128, 0), (1, 0, 64, 128), (2, 0, 64, 192))


@pytest.mark.parametrize("width", [1, 15, 16, 17, 88, 96])
def test_gate_and_up_tiles_alternate_and_cover_every_row_once(width):
    columns = np.full(32 * tiling.tiles(width), -1)
    for source, first, rows, column in packing.interleaved(width):
        assert (columns[column : column + rows] == -1).all()
        columns[column : column + rows] = source * 1000 + np.arange(first, first + rows)
    tiles = columns.reshape(-1, 2, 16)
    for source in (0, 1):
        flat = tiles[:, source].ravel()
        assert flat[:width].tolist() == list(range(source * 1000, source * 1000 + width))
        assert (flat[width:] == -1).all()


def test_tied_head_is_stored_once():
    tied, untied = entries(tie_word_embeddings=True), entries()
    assert "model.embed_tokens.weight" in tied and "lm_head.weight" not in tied
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= set(untied)


def test_bias_follows_the_packed_columns_and_an_absent_one_is_zero():
    entry = entries(architecture="Qwen2ForCausalLM")["model.layers.1.self_attn.{q_proj,k_proj,v_proj}.bias"]
    assert entry["layout"] == "vector" and entry["bytes"] == 4 * 16 * 16
    assert entry["runs"][:2] == [[0, 0, 24, 0], [0, 24, 24, 32]]
    region = packing.Region()
    partial = region.vector([None, Weight("b", (8,))], ((0, 0, 8, 0), (1, 0, 8, 16)), 32).entry
    assert partial["sources"] == [{"name": "b", "shape": [8]}]
    assert partial["runs"] == ((0, 0, 8, 16),)


def test_regions_are_disjoint_and_aligned():
    placed = sorted(entries(architecture="Qwen3ForCausalLM").values(), key=lambda entry: entry["offset"])
    for entry, following in itertools.pairwise(placed):
        assert entry["offset"] + entry["bytes"] <= following["offset"]
    for entry in placed:
        assert entry["offset"] % (4096 if entry["layout"] == "tiles" else 64) == 0


@pytest.mark.parametrize("k, columns", [(64, 128), (576, 128), (1024, 128), (2048, 128), (2080, 64), (28672, 64)])
def test_task_is_a_few_streams(k, columns):
    assert 16 * tiling.task_tiles(1000, tiling.depth_tiles(k)) == columns


def test_few_tiles_are_cut_finer_and_never_exceeded():
    assert tiling.task_tiles(64, 32) == 8
    assert tiling.task_tiles(63, 32) == 4
    assert tiling.task_tiles(3, 2) == 3
    assert tiling.task_heads(8, 8, 32) == 1
    assert tiling.task_heads(8, 2, 3) == 2
    assert tiling.task_heads(64, 2, 3) == 4
    assert tiling.task_heads(8, 12, 200) == 1
