"""`import ellm` finds the installed package, wherever Python is started."""

import os
import subprocess
import sys


def test_the_folder_of_a_clone_does_not_hide_the_package(tmp_path):
    """Python started beside a clone sees a folder `ellm` without __init__.py first: a package of nothing."""
    (tmp_path / "ellm").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", "import ellm; print(ellm.LLM.__name__)"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "LLM\n", f"{done.stderr}\nan editable install that is older than this test: pip install -e ."
