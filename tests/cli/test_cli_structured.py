"""Options of `ellm run` that say what an answer must be like."""

import json
import subprocess
import sys

import pytest
from tiny import write_checkpoint


def ellm(*arguments):
    command = [sys.executable, "-m", "ellm.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture
def files(tmp_path):
    (tmp_path / "schema.json").write_text('{"enum": [["the", 12]]}')
    (tmp_path / "grammar").write_text('root ::= "no" | "no"')
    (tmp_path / "broken").write_text('{"enum": ')
    (tmp_path / "long").write_text(" " * (1 << 17))
    return tmp_path


def test_answers_keep_to_what_is_asked_for(checkpoint, files):
    run = lambda *options: ellm("run", checkpoint, "x", *options).stdout.strip()  # noqa: E731
    assert json.loads(run("--json-schema", files / "schema.json")) == ["the", 12]
    assert run("--grammar", files / "grammar") == "no"
    assert run("--regex", "the (end){3}") == "the endendend"
    assert run("--raw", "--regex", "the (end){3}", "--presence-penalty", 1, "--frequency-penalty", "-0.5")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--json-schema", "none"), "--json-schema none: "),
        (("--json-schema", "broken"), "--json-schema broken: no JSON: "),
        (("--grammar", "long"), "--grammar long: has more than 65536 bytes"),
        (("--grammar", "grammar", "--regex", "a"), "--grammar and --regex: an answer can keep to one of them"),
        (("--regex", "a("), "structured_outputs: regex: "),
        (("--presence-penalty", "3"), "presence_penalty must be a number from -2 to 2, not 3.0"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(checkpoint, files, options, message):
    result = ellm("run", checkpoint, "x", *(files / one if (files / one).exists() else one for one in options))
    said = result.stderr.replace(f"{files}/", "")
    assert result.returncode == 2 and message in said and len(said.splitlines()) == 1
