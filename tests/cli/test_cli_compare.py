"""`ellm compare`: figures against the logits themselves, and bad input in one line."""

import json
import re

import numpy as np
import pytest
from measures import agreement, divergences, log_softmax
from tiny import write_checkpoint

from ellm import LLM
from ellm.cli import compare
from ellm.serving import runtime
from ellm.system import memory

TEXT = "The quick brown fox jumps over the lazy dog. " * 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("compare") / "tiny", "LlamaForCausalLM")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def ran(in_process):
    """What `ellm compare --json` says."""

    def run(*arguments):
        code, out, err = in_process("compare", *map(str, arguments), "--threads", "1", "--pin", "none", "--json")
        assert code == 0, err
        return json.loads(out)

    return run


def expected(folder, tokens, size, **options):
    """KL of each scored position, whether top tokens agree, and -log of the next token's probability, by hand."""
    found = [], [], []
    with LLM(folder, pin="none", threads=1) as a, LLM(folder, pin="none", threads=1, **options) as b:
        for begin in range(0, len(tokens) - size + 1, size):
            window = tokens[begin : begin + size]
            rows = slice(size // 2, size - 1)
            first, second = a.logits(window)[rows], b.logits(window)[rows]
            following = np.array(window[size // 2 + 1 :])[:, None]
            found[0].append(divergences(first, second))
            found[1].append(first.argmax(1) == second.argmax(1))
            found[2].append(-np.take_along_axis(log_softmax(second), following, 1)[:, 0])
    return [np.concatenate(each) for each in found]


@pytest.fixture(scope="module")
def tokens(folder):
    with LLM(folder, pin="none", threads=1) as llm:
        return llm.tokenizer.encode(TEXT, add_special=False)


def check(found, folder, tokens, size, **options):
    kl, same, surprise = expected(folder, tokens, size, **options)
    assert found["positions"] == len(kl) and found["windows"] == len(tokens) // size
    assert found["left_over"] == len(tokens) % size
    assert found["kl"]["value"] == pytest.approx(kl.mean(), rel=1e-9) and kl.mean() > 0
    assert found["kl"]["error"] == pytest.approx(kl.std(ddof=1) / len(kl) ** 0.5, rel=1e-9)
    assert found["kl_max"] == pytest.approx(kl.max(), rel=1e-9)
    assert found["same_top"]["value"] == same.mean()
    assert found["perplexity_b"]["value"] == pytest.approx(np.exp(surprise.mean()), rel=1e-9)


def test_precisions_of_one_model(ran, folder, file, tokens):
    check(ran(folder, "--text", file, "--b", "dtype=q8", "--context", 32), folder, tokens, 32, dtype="q8")


def test_logits_wait_in_a_file_if_both_do_not_fit(ran, folder, file, tokens, monkeypatch):
    opened, fits = [], runtime.check_room

    def check_room(programs, threads, model, context=None):
        opened.append(model)
        if len(opened) == 2:
            raise runtime.NoRoom(model)
        fits(programs, threads, model, context)

    monkeypatch.setattr(runtime, "check_room", check_room)
    found = ran(folder, "--text", file, "--b", "dtype=q4", "--context", 32)
    assert len(opened) == 3
    monkeypatch.undo()
    check(found, folder, tokens, 32, dtype="q4")


def test_there_must_be_room_for_that_file(in_process, folder, file, monkeypatch):
    class Full:
        free = 1000

    calls = iter([None, runtime.NoRoom("full"), None])

    def check_room(*_):
        if error := next(calls):
            raise error

    monkeypatch.setattr(runtime, "check_room", check_room)
    monkeypatch.setattr(compare.shutil, "disk_usage", lambda _: Full)
    code, out, err = in_process("compare", str(folder), "--text", str(file), "--threads", "1", "--pin", "none")
    assert (code, out) == (2, "")
    assert re.search(r"ellm: .*: the logits of one model need .*, 1.0 kB are free\n$", err), err


def test_the_same_model_is_nowhere_apart(in_process, folder, file):
    code, out, err = in_process("compare", str(folder), "--text", str(file), "--threads", "1", "--context", "64")
    assert code == 0, err
    assert "KL(A || B)   0 ± 0 nats; median 0, 99 % 0, most 0\nsame top-1   100.00% ± 0.00%\n" in out
    assert re.search(r"perplexity   A ([\d.]+ ± [\d.]+), B \1, B / A 1.0000\n$", out), out
    assert re.search(r"windows? of 64 tokens; \d+ positions scored: the second half of each", out), out


def test_at_most_so_many_windows(ran, folder, file):
    assert ran(folder, "--text", file, "--context", 32, "--windows", 2)["windows"] == 2


def test_a_short_text_is_scored_whole(ran, folder, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("The quick")
    found = ran(folder, "--text", path, "--a", "dtype=q4", "--a", "isa=portable")
    assert found["windows"] == 1 and found["positions"] == found["window"] - 1 >= 1
    assert found["a"]["options"] == {"dtype": "q4", "isa": "portable"} and found["kl"]["value"] > 0


@pytest.mark.parametrize(
    ("content", "options", "complaint"),
    [
        (b"", (), "text.txt: is empty"),
        (b"T", (), "text.txt: has 1 tokens, 2 are the least to compare models on"),
        (b"caf\xe9", (), "text.txt: is not UTF-8 text: unexpected end of data at byte 3"),
        (None, (), "text.txt: cannot be read: No such file or directory"),
        (b"text", ("--context", "1"), "--context must be at least 2, not 1"),
        (b"text", ("--windows", "0"), "--windows must be at least 1, not 0"),
        (
            b"text",
            ("--b", "q4"),
            "--b must be KEY=VALUE with KEY one of dtype, activations, kv, isa, expanded-prefill, not 'q4'",
        ),
        (
            b"text",
            ("--a", "chunk=4"),
            "--a must be KEY=VALUE with KEY one of dtype, activations, kv, isa, expanded-prefill, not 'chunk=4'",
        ),
        (b"text", ("--a", "expanded-prefill=1"), "expanded-prefill must be true or false, not '1'"),
        (b"text text", ("--b", "dtype=q5"), "dtype 'q5' is unknown: choose one of"),
    ],
)
def test_bad_input_is_one_line(in_process, folder, tmp_path, content, options, complaint):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    code, out, err = in_process("compare", str(folder), "--text", str(path), *options)
    assert (code, out) == (2, "") and err.count("\n") == 1 and complaint in err, err


def test_models_that_cannot_be_compared(in_process, folder, file, tmp_path):
    other = write_checkpoint(tmp_path / "other", "LlamaForCausalLM", vocab_size=352)
    code, _, err = in_process("compare", str(folder), str(other), "--text", str(file))
    assert code == 2 and err.endswith("cannot be compared: their vocabularies have 331 and 352 tokens\n"), err
    other = write_checkpoint(tmp_path / "third", "LlamaForCausalLM")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    first, second = (token for token in vocab if len(token) == 1 and token in "ou")
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    code, _, err = in_process("compare", str(folder), str(other), "--text", str(file))
    assert code == 2 and f"their tokenizers make other tokens of {file}" in err, err


def test_memory_is_that_of_a_few_steps(folder, tokens):
    with LLM(folder, pin="none", threads=1, chunk=16) as llm:
        whole, steps = llm.logits(tokens[:100]), [*llm.logits_by_step(tokens[:100], 37)]
        assert [len(step) for step in steps] == [0, 0, 11, 16, 16, 16, 4]
        np.testing.assert_array_equal(np.concatenate(steps), whole[37:])
        stopped = llm.logits_by_step(tokens[:100])
        next(stopped)
        stopped.close()
        assert agreement(whole.argmax(1), llm.logits(tokens[:100])) == 1
    assert memory.available() > 0
