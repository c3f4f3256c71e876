"""bench/clients.py prints what clients see of two servers; here both are ellm."""

import importlib
import os
import sys
from pathlib import Path

import pytest
import tiny

ROOT = Path(__file__).parents[2]
SIZES = dict(layers=4, hidden_size=256, head_dim=64, num_attention_heads=4, intermediate_size=256, vocab=400)
PEER = f"""#!/bin/sh
shift
exec {sys.executable} -c 'from ellm.cli.main import main; main()' serve $1 --name model --port $7
"""


@pytest.fixture
def clients(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    module = importlib.import_module("clients")
    monkeypatch.setattr(module, "VOCAB", SIZES["vocab"])
    return module


def test_a_row_for_each_thing_measured(clients, tmp_path, monkeypatch, capsys):
    file = tmp_path / "small.gguf"
    config = tiny.make_config("Qwen3ForCausalLM", **SIZES, max_position_embeddings=2048)
    importlib.import_module("make_gguf").write(file, config, "q8_0")
    peer = tmp_path / "llama-server"
    peer.write_text(PEER)
    peer.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    options = {"prompt": 300, "streams": 2, "tokens": 500, "turns": 4, "tool": 100, "threads": 1}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr("sys.argv", ["clients.py", str(file), *words])
    clients.main()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert len(rows) == 9 + 4
    for _, ours, other in rows[3:9]:
        assert float(ours) >= 0 and float(other) >= 0  # tokens of one read have no gap
    assert all(float(number) > 0 for number in (*rows[3][1:], *rows[8][1:]))
    turns = [[int(words.split()[-2]), int(ours), int(other)] for words, ours, other in rows[9:]]
    assert [new for new, *_ in turns] == [200, 101, 101, 101]
    assert all(new <= ours < new + 16 for new, ours, _ in turns)  # also after the restart
    assert turns[2][2] == 200 + 2 * 132 + 0  # there the peer had nothing left


def test_what_is_missing_is_said(clients, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["clients.py", "a.gguf"])
    with pytest.raises(SystemExit):
        clients.main()
    assert "llama-server is not on PATH" in capsys.readouterr().err
