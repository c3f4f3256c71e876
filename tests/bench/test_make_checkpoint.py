"""bench/make_checkpoint.py writes what the loaders read."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from families import FAMILIES
from routes import routed_experts
from safetensors import safe_open
from tiny_shapes import stored

import ellm
from ellm.compiled import Options, Source, compile_model
from ellm.predict import routes

SCRIPT = Path(__file__).parents[2] / "bench" / "make_checkpoint.py"


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


MODELS = {
    **{record.architecture: {} for record in FAMILIES},
    "LlamaForCausalLM f16": {"precision": "f16"},
    "Qwen3MoeForCausalLM fp8": {"precision": "fp8", "hidden_size": 136},
    "DeepseekV3ForCausalLM fp8": {"precision": "fp8", "num_nextn_predict_layers": 1},
    "GptOssForCausalLM mxfp4": {"precision": "mxfp4", "layer_types": ["sliding_attention", "full_attention"] * 2},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_the_given_shapes_runs(name, tmp_path):
    config = tiny.make_config(name.split()[0], layers=4, **MODELS[name])
    tiny.write_json(tmp_path / "small.json", config)
    out = tmp_path / "out"
    done = run(tmp_path / "small.json", out, "--layers", "2")
    assert done.returncode == 0, done.stderr
    index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index) == set(stored({**config, "num_hidden_layers": 2, "num_nextn_predict_layers": 0}))
    with ellm.LLM(str(out)) as llm:
        logits = llm.logits([5, 6, 7])
    assert np.isfinite(logits).all()
    assert logits.std() > 0.01


@pytest.mark.parametrize("architecture, precision", [("Qwen3ForCausalLM", None), ("DeepseekV3ForCausalLM", "fp8")])
def test_shapes_and_types_are_those_of_the_config(architecture, precision, tmp_path):
    config = tiny.make_config(architecture, precision=precision)
    tiny.write_json(tmp_path / "config.json", config)
    assert run(tmp_path, tmp_path / "out").returncode == 0
    with safe_open(tmp_path / "out" / "model-00001-of-00001.safetensors", "numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        assert {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()} == stored(config)


def test_fields_can_be_set(tmp_path):
    tiny.write_json(tmp_path / "config.json", tiny.make_config("Qwen3MoeForCausalLM"))
    assert run(tmp_path, tmp_path / "out", "--set", "num_experts=5", "--set", "norm_topk_prob=false").returncode == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_experts"], config["norm_topk_prob"]) == (5, False)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"]
    assert "model.layers.0.mlp.experts.4.up_proj.weight" in index
    assert "model.layers.0.mlp.experts.5.up_proj.weight" not in index


@pytest.mark.parametrize(
    "architecture, count", [("Qwen3MoeForCausalLM", "num_experts"), ("GptOssForCausalLM", "num_local_experts")]
)
def test_routers_are_as_uneven_as_those_of_a_plan(architecture, count, tmp_path):
    """In every layer: if rows became alike on the way, the last layer would hit few experts."""
    tiny.write_json(tmp_path / "config.json", tiny.make_config(architecture, layers=4))
    assert run(tmp_path, tmp_path / "out", "--set", f"{count}=64", "--set", "hidden_size=512").returncode == 0
    chosen = routed_experts(tmp_path / "out", np.random.default_rng(0).integers(0, 331, 256))
    program = compile_model(
        Source(json.loads((tmp_path / "out" / "config.json").read_text())), Options(context=512)
    ).program
    drawn = [rows for op, rows in routes.draw(program, 256, seed=0).items()][::2]
    busiest = [np.sort(np.bincount(ids.ravel(), minlength=64))[-8:].sum() / ids.size for ids in chosen]
    assert busiest == pytest.approx([np.sort(rows)[-8:].sum() / rows.sum() for rows in drawn], rel=0.35)


def test_an_unknown_family_is_refused(tmp_path):
    tiny.write_json(tmp_path / "config.json", {"architectures": ["Mamba2ForCausalLM"]})
    done = run(tmp_path, tmp_path / "out")
    assert done.returncode == 2
    assert "Mamba2ForCausalLM" in done.stderr
    assert not (tmp_path / "out").exists()
