"""What conftest.py does for every run of the tests."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from stale_build import changed_since_built

ROOT = Path(__file__).parent.parent


@pytest.fixture
def tree(tmp_path):
    """A root with two extensions, all of whose files were changed at their number of seconds."""
    seconds = {
        "kernels/task.h": 1,
        "kernels/rows.pxi": 2,
        "kernels/_avx2.pyx": 3,
        "scheduler/pool.pxd": 4,
        "scheduler/pool.pyx": 5,
        "kernels/_avx2.cpython-311-x86_64-linux-gnu.so": 10,
        "scheduler/pool.cpython-311-x86_64-linux-gnu.so": 11,
    }
    for name, second in seconds.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (second, second))
    return tmp_path


def test_a_tree_that_is_built(tree):
    assert changed_since_built(tree) is None


@pytest.mark.parametrize("name", ["kernels/task.h", "kernels/rows.pxi", "scheduler/pool.pxd", "kernels/_avx2.pyx"])
def test_a_source_that_is_newer_than_what_is_made_of_it(tree, name):
    os.utime(tree / name, (20, 20))
    assert changed_since_built(tree) == tree / name


def test_a_source_that_was_built_after_the_others(tree):
    os.utime(tree / "scheduler/pool.pyx", (10.5, 10.5))
    assert changed_since_built(tree) is None


def test_a_tree_without_extensions(tree):
    for built in tree.glob("*/*.so"):
        built.unlink()
    assert changed_since_built(tree) is None


def test_tests_get_sigint_though_it_was_ignored():
    """As in `nohup pytest &` in a script."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "tests/scheduler/test_shutdown.py", "-k", "interrupt"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
