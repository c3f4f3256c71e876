"""What a name may be."""

import os

import pytest
import tiny

from ellm.checkpoint import aliases, open_checkpoint
from ellm.system.errors import InputError


def test_alias():
    with open_checkpoint("smollm2") as checkpoint:
        assert checkpoint.source.endswith("SmolLM2-135M-Instruct.Q4_1.gguf")
        assert len(checkpoint.tensors) == 272


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
    (tmp_path / "model.bin").write_bytes(b"x" * 8)
    with pytest.raises(InputError, match=r"model.bin: begins with b'xxxx', a GGUF file with b'GGUF'$"):
        open_checkpoint(tmp_path / "model.bin")
    (tmp_path / "model.gguf").write_bytes(b"x")
    with pytest.raises(InputError, match=r"model.gguf: is truncated: the header ends at byte 1, within magic"):
        open_checkpoint(tmp_path / "model.gguf")
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(InputError, match=r"pipe.gguf: is not a regular file"):
        open_checkpoint(tmp_path / "pipe.gguf")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.safetensors.index.json", "config.json", "tokenizer.model"]
)
def test_a_part_of_a_folder(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=f"{name}: is a part of a checkpoint; give its folder, {tmp_path}$"):
        open_checkpoint(tmp_path / name)


def test_a_git_lfs_pointer(tmp_path):
    (tmp_path / "model.gguf").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n")
    with pytest.raises(InputError, match=r"model.gguf: is a git-lfs pointer, not the file: run `git lfs pull`"):
        open_checkpoint(tmp_path / "model.gguf")


def test_unreadable(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(InputError, match=r"config.json: is not a regular file"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_a_pipe_is_refused_not_waited_for(tmp_path, name):
    tiny.write_checkpoint(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=f"{name}: is not a regular file"):
        open_checkpoint(tmp_path).tokenizer  # noqa: B018


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_a_small_file_that_is_large_is_not_read(tmp_path, name):
    tiny.write_checkpoint(tmp_path)
    with (tmp_path / name).open("ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=f"{name}: has 1099511627776 bytes, at most 67108864 are plausible"):
        open_checkpoint(tmp_path).tokenizer  # noqa: B018


@pytest.mark.parametrize("name", ["", " ", "~nobody-has-this-name/x"])
def test_no_name(name):
    with pytest.raises(InputError):
        open_checkpoint(name)


def test_a_question_in_the_place_of_a_name():
    with pytest.raises(InputError, match="cannot be opened: File name too long"):
        open_checkpoint("Why is the sky blue? " * 1000)
