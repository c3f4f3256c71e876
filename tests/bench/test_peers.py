"""bench/make_gguf.py writes files that run, and bench/peers.py compares what it finds with what its peer prints."""

import importlib
import json
import os
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny

import ellm

BENCH = Path(__file__).parents[2] / "bench"
SIZES = dict(layers=4, hidden_size=256, head_dim=64, num_attention_heads=4, intermediate_size=256, vocab=300)
PEER = """#!/bin/sh
echo loading
echo '{"speed_pp": 20.0, "speed_tg": 10.0}'
"""


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module


def write(bench, path: Path, kind: str, architecture: str = "Qwen3ForCausalLM", **fields) -> Path:
    bench("make_gguf").write(path, tiny.make_config(architecture, **SIZES, **fields), kind)
    return path


@pytest.mark.parametrize("architecture", ["Qwen3ForCausalLM", "Qwen3MoeForCausalLM"])
@pytest.mark.parametrize("kind", ["q4_k_m", "q8_0", "q4_0", "q6_k", "bf16"])
def test_a_file_of_each_type_runs(bench, tmp_path, architecture, kind):
    path = write(bench, tmp_path / "model.gguf", kind, architecture, moe_intermediate_size=256)
    for tensor in gguf.GGUFReader(path).tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.isfinite(values).all()
        if values.ndim > 1 and "_inp" not in tensor.name:
            columns = 1 if tensor.name.startswith("token_embd") else values.shape[-1]
            assert 0.5 < values.std() * columns**0.5 < 2, tensor.name
    with ellm.LLM(str(path)) as llm:
        logits = llm.logits([5, 6, 7])
    assert np.isfinite(logits).all() and logits.std() > 0.01


def test_bits_are_mixed_as_llama_quantize_does(bench, tmp_path):
    path = write(bench, tmp_path / "model.gguf", "q4_k_m", num_hidden_layers=16)
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    more = [layer for layer in range(16) if types[f"blk.{layer}.ffn_down.weight"] == "Q6_K"]
    assert more == [0, 1, 4, 7, 10, 13, 14, 15]
    assert {types[f"blk.{layer}.attn_q.weight"] for layer in range(16)} == {"Q4_K"}
    assert types["output.weight" if "output.weight" in types else "token_embd.weight"] == "Q6_K"


def test_ratios_are_those_of_what_both_measure(bench, tmp_path, monkeypatch, capsys):
    write(bench, tmp_path / "small.gguf", "q8_0")
    (tmp_path / "bin").mkdir()
    peer = tmp_path / "bin" / "llama-batched-bench"
    peer.write_text(PEER)
    peer.chmod(0o755)
    peers = bench("peers")
    monkeypatch.setattr(
        peers, "WORKLOADS", (peers.Workload(5, 2, 1, prefill="prefill 5"), peers.Workload(3, 2, 2, decode="batch of 2"))
    )
    monkeypatch.setenv("PATH", str(peer.parent), prepend=os.pathsep)
    monkeypatch.setattr("sys.argv", ["peers.py", str(tmp_path), "--rounds", "2"])
    peers.main()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:2] for row in rows] == [["small", "prefill 5"], ["small", "batch of 2"]]
    for row, other in zip(rows, (20, 10), strict=True):
        speed, theirs, ratio = map(float, row[2:])
        assert theirs == other
        assert ratio == pytest.approx(speed / other, rel=0.5)


@pytest.mark.parametrize(
    "script, message", [("exit 3", "it printed nothing"), ("echo no such file >&2; exit 1", "no such file")]
)
def test_a_peer_that_fails_is_named(bench, tmp_path, monkeypatch, script, message):
    peer = tmp_path / "llama-batched-bench"
    peer.write_text(f"#!/bin/sh\n{script}\n")
    peer.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    peers = bench("peers")
    with pytest.raises(SystemExit, match=message):
        peers.peer(tmp_path / "a.gguf", peers.WORKLOADS[0], 1)


def test_what_is_missing_is_said(bench, tmp_path, monkeypatch, capsys):
    peers = bench("peers")
    monkeypatch.setattr("sys.argv", ["peers.py", str(tmp_path)])
    with pytest.raises(SystemExit):
        peers.main()
    assert "holds no *.gguf" in capsys.readouterr().err
    (tmp_path / "a.gguf").write_bytes(json.dumps({}).encode())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit):
        peers.main()
    assert "llama-batched-bench is not on PATH" in capsys.readouterr().err
