"""Fixtures of all tests. Helpers are modules in helpers/, which pyproject.toml puts on sys.path."""

import contextlib
import os
import sys

import pytest
from tiny import write_checkpoint


def pytest_configure(config):
    """Fetch the demo model once, before the workers of pytest-xdist start."""
    from ellm.checkpoint import aliases
    from ellm.system.errors import InputError

    if not hasattr(config, "workerinput"):
        with contextlib.suppress(InputError):  # each test that needs it says so
            aliases.path_of(aliases.DEFAULT)


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
