"""bench/experts.py: the scheduler runs the tasks of the experts that rows are routed to, and no others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import small_caches
import tiny

SCRIPT = Path(__file__).parents[2] / "bench" / "experts.py"


@pytest.mark.parametrize("architecture", ["Qwen3MoeForCausalLM", "DeepseekV3ForCausalLM", "GptOssForCausalLM"])
def test_tasks_run_are_those_of_the_experts_hit(architecture, tmp_path):
    folder = tiny.write_checkpoint(tmp_path, architecture)
    script = f"{small_caches.PATCH} import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    command = [sys.executable, "-c", script, folder, "-c", "150", "-n", "2", "--repeat", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    prefill, decode, memory, speed = done.stdout.splitlines()
    assert prefill.startswith("prefill   150 rows") and prefill.endswith("equal")
    assert decode.startswith("decode      1 rows") and decode.endswith("equal")
    assert "within" in memory
    assert "of the limit" in speed
