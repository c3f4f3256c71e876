"""Files that are written whole or not at all."""

import os
import signal
import subprocess
import sys

import pytest

from ellm.system import files
from ellm.system.errors import InputError

KILLED = """
import os, signal, sys
from pathlib import Path
from ellm.system.files import replacing
with replacing(Path(sys.argv[1])) as part:
    part.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_left_goes_when_a_file_is_written_beside_it(tmp_path, monkeypatch):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    [left] = names(tmp_path)
    files.write_whole(tmp_path / "b", b"whole")
    assert names(tmp_path) == [left, "b"]  # it may have been made just now
    os.utime(tmp_path / left, (0, 0))
    files.write_whole(tmp_path / "b", b"again")
    assert names(tmp_path) == ["b"]


def test_what_another_one_writes_stays(tmp_path):
    with files.replacing(tmp_path / "slow") as part:
        os.utime(part, (0, 0))
        files.write_whole(tmp_path / "quick", b"1")
        part.write_bytes(b"2")
    assert [(tmp_path / name).read_bytes() for name in names(tmp_path)] == [b"1", b"2"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(InputError, match=r"cannot write .*a: No space left"), files.replacing(tmp_path / "a") as part:
        part.write_bytes(b"ne")
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"
