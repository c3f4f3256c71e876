"""bench/heads.py runs, and its drafts are as right as they are said to be."""

import subprocess
import sys
from pathlib import Path

from tiny import write_checkpoint

SCRIPT = Path(__file__).parent.parent.parent / "bench/heads.py"


def test_drafts_that_are_always_right_are_all_accepted(tmp_path):
    folder = write_checkpoint(tmp_path, "DeepseekV3ForCausalLM", num_nextn_predict_layers=1)
    command = [sys.executable, SCRIPT, folder, "-n", "40", "-r", "2", "-s", "2", "--right", "0,1"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    never, always = (line.strip("| ").split(" | ") for line in result.stdout.splitlines()[-2:])
    assert (never[0], always[0]) == ("0.0", "1.0")
    assert (never[4], never[6]) == ("40", "0")
    assert int(always[4]) + int(always[6]) == 40 and always[5] == always[6]
    plain = subprocess.run([*command[:2], write_checkpoint(tmp_path / "plain")], capture_output=True, text=True)
    assert plain.returncode == 1 and "has no prediction heads" in plain.stderr
