"""Fixtures of all tests. Helpers are modules in helpers/, which pyproject.toml puts on sys.path."""

import os
import sys

import pytest
from tiny import write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny Qwen3; modules that need another one have a fixture of this name."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny", "Qwen3ForCausalLM")


@pytest.fixture(scope="module")
def llm(checkpoint):
    """It, open."""
    from ellm import LLM

    with LLM(checkpoint) as opened:
        yield opened


@pytest.fixture
def in_process(monkeypatch, capsys):
    """Runs `ellm` with arguments in this process; returns its exit code, stdout and stderr."""
    from ellm.cli.main import main

    monkeypatch.setattr(os, "_exit", sys.exit)  # which Ctrl-C ends in

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ellm", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        return caught.value.code, *capsys.readouterr()

    return run
