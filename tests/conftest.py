"""Fixtures of all tests. Helpers are modules in helpers/, which pyproject.toml puts on sys.path."""

import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest
import small_caches
from stale_build import changed_since_built
from tiny import write_checkpoint

ROOT = Path(__file__).parent.parent
MOST_WORKERS = 4  # each opens pools of a thread a core, and models


def pytest_configure(config):
    """What is done once, before the workers of pytest-xdist start."""
    from ellm.checkpoint import aliases
    from ellm.system.errors import InputError

    if hasattr(config, "workerinput"):
        return
    newer = changed_since_built(ROOT)
    if newer is not None:
        raise pytest.UsageError(
            f"{newer.relative_to(ROOT)} was changed after the build: python setup.py build_ext --inplace"
        )
    # In a script's background SIGINT is ignored, and would be by all children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with contextlib.suppress(InputError):  # each test that needs it says so
        aliases.path_of(aliases.DEFAULT)  # downloaded once


def pytest_xdist_auto_num_workers():
    return min(len(os.sched_getaffinity(0)), MOST_WORKERS)


@pytest.fixture(scope="session", autouse=True)
def _alone(tmp_path_factory):
    """Pools of other test runs on this machine are not seen: how many workers there are would depend on them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _small_caches():
    from ellm.machine import limits, measure

    with pytest.MonkeyPatch.context() as patch:
        for module in (limits, measure):
            patch.setattr(module, "last_level_cache", lambda cores: small_caches.SIZE)
        yield


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
