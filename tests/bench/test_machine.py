"""bench/machine.py writes one Markdown section of whatever can be measured here."""

import importlib
import os
from pathlib import Path

import pytest
import small_caches
import tiny

from ellm.kernels import isa

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """The script with a tiny model and weight, and without a C++ compiler for the scheduler's peer."""
    monkeypatch.syspath_prepend(BENCH)
    module = importlib.import_module("machine")
    best = isa.choose().isa
    (tmp_path / "model").mkdir()
    tiny.write_json(tmp_path / "model" / "config.json", tiny.make_config("Qwen3ForCausalLM") | {"head_dim": 32})
    monkeypatch.setattr(module, "MODELS", ((str(tmp_path / "model"), 1),))
    monkeypatch.setattr(module, "ELLM", small_caches.ELLM)
    monkeypatch.setattr(module, "PROMPTS", "8")
    monkeypatch.setattr(module, "PRODUCTS", ("--columns", "2048", "--k", "64", "--rows", "16"))
    monkeypatch.setattr(module, "FORMATS", ("bf16",))
    monkeypatch.setattr(module, "LONGEST", 2048)
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    monkeypatch.setattr(isa, "available", lambda: {best: None})
    compiler = tmp_path / "bin" / "c++"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(compiler.parent), prepend=os.pathsep)
    return module


def test_a_section_is_a_table_of_what_can_be_measured(machine):
    heading, empty, facts, blank, *table = machine.section(0)
    assert heading.startswith("## ") and empty == blank == ""
    assert "cores, L1" in facts and facts.endswith(".")
    assert table[:2] == ["| | measured | share of the limit |", "|---|---|---|"]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    assert all(len(row) == 3 and row[0] and row[1] for row in rows), rows
    names = [row[0] for row in rows]
    [name] = isa.available()
    kernels = [f"linear, {name}, bf16, 16 rows", f"limits, {name}, best of 1"]
    model = f"{machine.MODELS[0][0]}, 1 layers"
    lengths = ["a token after 1,024", "a token after 2,048", "straight line"]
    contexts = [f"{model[:-1]}, {kv} cache: {what}" for kv in ("bf16", "int8") for what in lengths]
    models = [f"{model}: prefill 8", f"{model}: decode 64 at 128"]
    assert names == [*kernels, *models, *contexts, "scheduler", "beside llama.cpp"]
    assert all(row[1].startswith("not measured: ") for row in rows[-2:])
    assert rows[-2][1].endswith("c++ cannot build tbb_graph.cpp, which needs libtbb-dev")
