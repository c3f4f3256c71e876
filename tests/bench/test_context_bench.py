"""bench/context.py: a point for each context, of decoded tokens or of a prompt, and the line through them."""

import runpy
import sys
from pathlib import Path

import pytest
from tiny import write_checkpoint

CONTEXT = Path(__file__).parents[2] / "bench" / "context.py"


@pytest.mark.parametrize("options", [["--kv", "int8"], ["--prompt"]])
def test_points(tmp_path, monkeypatch, capsys, options):
    folder = write_checkpoint(tmp_path, architecture="Qwen3ForCausalLM", head_dim=32, max_position_embeddings=4096)
    longest = ["--longest", "2048", "--seconds", "0", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["context.py", str(folder), *longest, *options])
    runpy.run_path(str(CONTEXT), run_name="__main__")
    head, _, *points, _, line = capsys.readouterr().out.splitlines()
    assert ("multiplication limit" in head) == (options == ["--prompt"])
    assert [point.split(" | ")[0] for point in points] == ["| 1,024", "| 2,048"]
    assert "a position; R²" in line
