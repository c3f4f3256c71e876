"""bench/make_checkpoint.py writes what the loaders read."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from safetensors import safe_open

import ellm

SCRIPT = Path(__file__).parents[2] / "bench" / "make_checkpoint.py"


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("architecture", tiny.FAMILIES)
def test_a_model_of_the_given_shapes_runs(architecture, tmp_path):
    config = tiny.make_config(architecture, layers=3)
    tiny.write_json(tmp_path / "small.json", config)
    out = tmp_path / "out"
    done = run(tmp_path / "small.json", out, "--layers", "2")
    assert done.returncode == 0, done.stderr
    index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index) == set(tiny.shapes({**config, "num_hidden_layers": 2}))
    with ellm.LLM(str(out)) as llm:
        logits = llm.logits([5, 6, 7])
    assert np.isfinite(logits).all()
    assert logits.std() > 0.01


def test_shapes_and_types_are_those_of_the_config(tmp_path):
    config = tiny.make_config("Qwen3ForCausalLM")
    tiny.write_json(tmp_path / "config.json", config)
    assert run(tmp_path, tmp_path / "out").returncode == 0
    with safe_open(tmp_path / "out" / "model-00001-of-00001.safetensors", "numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        assert {name: tuple(part.get_shape()) for name, part in slices.items()} == tiny.shapes(config)
        assert {part.get_dtype() for part in slices.values()} == {"BF16"}


def test_an_unknown_family_is_refused(tmp_path):
    tiny.write_json(tmp_path / "config.json", {"model_type": "gpt_oss"})
    done = run(tmp_path, tmp_path / "out")
    assert done.returncode == 2
    assert "gpt_oss" in done.stderr
    assert not (tmp_path / "out").exists()
