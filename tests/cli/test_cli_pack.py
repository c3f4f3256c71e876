"""`ellm pack` and `--cache` as users drive them."""

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from ellm.checkpoint import packed_file
from ellm.checkpoint.packed_file import WEIGHTS_AT

ELLM = [sys.executable, "-m", "ellm.cli.main"]
ROOT = Path(__file__).parents[2]
ANSWER = ("the", "--raw", "--max-tokens", "4", "--threads", "1")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ellm"


@pytest.fixture
def model(tmp_path, cache):
    return tiny.write_checkpoint(tmp_path / "model", "Qwen3ForCausalLM")


@pytest.fixture
def packed(tmp_path, model, in_process):
    code, out, err = in_process("pack", model, tmp_path / "packed")
    assert (code, out) == (0, "") and re.fullmatch(r"wrote \S+/packed: [\d.]+ MB\n", err)
    return tmp_path / "packed"


def refused(result) -> str:
    code, out, err = result
    assert (code, out) == (2, "") and re.fullmatch(r"ellm: [^\n]+\n", err), result
    return err


def test_a_packed_file_runs_whatever_its_name(model, packed, in_process):
    expected = in_process("run", model, *ANSWER)
    assert expected[0] == 0
    assert in_process("run", packed, *ANSWER) == expected
    named = packed.rename(packed.with_suffix(".gguf"))
    assert in_process("run", named, *ANSWER) == expected


def test_every_command_takes_it(model, packed, in_process):
    def shown(path):
        code, out, _ = in_process("inspect", path)
        assert code == 0
        return re.sub(r"; \d+ exceptions .* looked at", "", out)  # which takes the tensors themselves

    assert shown(packed) == shown(model)
    for command in (
        ("bench", packed, "-p", "4", "-n", "2", "-d", "2", "-r", "1"),
        ("profile", packed, "-n", "2"),
        ("plan", packed, "--machine", "epyc-9755", "--context", "64", "--prompt", "16"),
        ("inspect", packed, "--no-weights"),
        ("inspect", packed, "--diff", model),
    ):
        code, out, _ = in_process(*command)
        assert code == 0 and (out.strip() or "--diff" in command)


@pytest.mark.parametrize("heads", [0, 1])
def test_inspect_says_whether_there_are_prediction_heads(tmp_path, cache, in_process, heads):
    model = tiny.write_checkpoint(tmp_path / "model", "Glm4MoeForCausalLM", num_nextn_predict_layers=heads)
    assert in_process("pack", model, tmp_path / "packed")[0] == 0
    for speculate in ("auto", "off"):
        lines = in_process("inspect", tmp_path / "packed", "--speculate", speculate)[1].splitlines()
        assert ("packed       with prediction heads" in lines) == bool(heads)
        assert any(line.startswith("prediction heads: ") for line in lines) == (bool(heads) and speculate == "auto")


def test_verify(packed, in_process):
    code, out, err = in_process("pack", "--verify", packed)
    assert (code, out) == (0, "") and "is whole" in err
    with packed.open("r+b") as file:
        file.seek(WEIGHTS_AT + 5000)
        byte = file.read(1)
        file.seek(WEIGHTS_AT + 5000)
        file.write(bytes([byte[0] ^ 1]))
    assert "is damaged: bytes" in refused(in_process("pack", packed, "--verify"))


def test_what_is_refused(tmp_path, model, packed, in_process):
    letter = tmp_path / "letter"
    letter.write_text("Dear")
    for arguments, words in [
        ((model,), "there is no OUT"),
        ((model, letter), "letter: is there and no packed model: it is not overwritten"),
        ((model, tmp_path), "it is a folder"),
        ((model, tmp_path / "no" / "where"), "No such file"),
        ((model, "/dev/null"), "is there and no packed model"),
        (("/nowhere", tmp_path / "out"), "/nowhere"),
        ((packed, tmp_path / "out"), "is packed already"),
        ((model, tmp_path / "out", "--dtype", "int3"), "dtype 'int3' is unknown: choose one of "),
        ((model, tmp_path / "out", "--expanded-prefill"), "has no latent attention"),
        ((model, "--verify"), "is no packed model"),
        ((letter, "--verify"), "is no packed model|is truncated"),
        ((packed, tmp_path / "out", "--verify"), "--verify takes a packed file alone"),
    ]:
        assert re.search(words, refused(in_process("pack", *arguments))), arguments
    assert letter.read_text() == "Dear"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letter", "model", "packed"]


def test_damaged_files_are_refused_in_one_line(packed, in_process):
    data = packed.read_bytes()
    for content in (data[:-1], data[: WEIGHTS_AT + 4096], data[:40], data + b"x", data[:-9] + b"x" + data[-8:]):
        packed.write_bytes(content)
        for command in (("run", packed, *ANSWER), ("inspect", packed)):
            assert re.search("is damaged|is truncated", refused(in_process(*command)))
    packed.write_bytes(data[:8] + (packed_file.LAYOUT + 1).to_bytes(8, "little") + data[16:])
    assert refused(in_process("run", packed, *ANSWER)).endswith(": pack it again\n")


def test_it_replaces_a_packed_file(packed, model, in_process):
    assert in_process("pack", model, packed)[0] == 0


def test_an_option_that_it_was_not_packed_for(packed, in_process):
    line = refused(in_process("run", packed, *ANSWER, "--expanded-prefill"))
    assert "was packed without expanded prefill: pack it again with --expanded-prefill" in line


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, model):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (WEIGHTS_AT + 5000, WEIGHTS_AT + 5000))

    command = [*ELLM, "pack", str(model), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, preexec_fn=limited)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"ellm: cannot write {tmp_path}/out: File too large\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(tmp_path, model, number):
    """While weights are written: a thread of the process waits for that, and then interrupts it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\nfrom ellm.checkpoint import packed_file\n\n"
        "add = packed_file.Writer.add_weights\n\n"
        "def slow(self, data):\n"
        "    add(self, data)\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    time.sleep(30)\n\n"
        "packed_file.Writer.add_weights = slow\n"
    )
    variables = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [*ELLM, "pack", str(model), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, env=variables)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".", "out"))]


def cached(cache) -> list[Path]:
    return sorted(cache.glob("packed/*.ellm"))


def test_cache_packs_once(model, cache, in_process):
    expected = in_process("run", model, *ANSWER)
    code, out, err = in_process("run", model, *ANSWER, "--cache")
    (path,) = cached(cache)
    assert (code, out) == expected[:2]
    assert re.fullmatch(rf"kept packed in {path}: [\d.]+ MB\n", err)
    made = path.stat().st_ino
    assert in_process("run", model, *ANSWER, "--cache") == expected
    assert in_process("bench", model, "-p", "4", "-n", "2", "-d", "2", "-r", "1", "--cache")[0] == 0
    assert [path.stat().st_ino for path in cached(cache)] == [made]


def test_a_model_that_has_changed_is_packed_anew(model, cache, in_process):
    first = in_process("run", model, *ANSWER, "--cache")
    before = cached(cache)
    tiny.write_checkpoint(model, "Qwen3ForCausalLM", seed=5)
    code, out, err = in_process("run", model, *ANSWER, "--cache")
    assert code == 0 and "kept packed" in err
    assert cached(cache) == before
    assert out == in_process("run", model, *ANSWER)[1] != first[1]
    (model / "chat_template.jinja").write_text("x")
    assert "kept packed" in in_process("run", model, *ANSWER, "--cache")[2]
    assert in_process("run", model, *ANSWER, "--cache")[2] == ""


def test_a_damaged_or_older_one_is_packed_anew(model, cache, in_process):
    in_process("run", model, *ANSWER, "--cache")
    (path,) = cached(cache)
    data = path.read_bytes()
    for content in (data[:-1], data[:8] + bytes(8) + data[16:], b"", data[: WEIGHTS_AT + 10]):
        path.write_bytes(content)
        code, _, err = in_process("run", model, *ANSWER, "--cache")
        assert code == 0 and "kept packed" in err


def test_cache_leaves_a_packed_file_alone(packed, cache, in_process):
    assert in_process("run", packed, *ANSWER, "--cache")[0] == 0
    assert cached(cache) == []


def test_two_at_once_pack_once(model, cache):
    command = [*ELLM, "run", str(model), *ANSWER, "--cache"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) for _ in range(2)]
    results = [one.communicate(timeout=120) for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert results[0][0] == results[1][0]
    assert sum(b"kept packed" in err for _, err in results) == 1


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, model, monkeypatch, in_process):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert re.search(r"cannot keep model-\w+\.ellm in ", refused(in_process("run", model, *ANSWER, "--cache")))
