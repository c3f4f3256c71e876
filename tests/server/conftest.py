"""Servers that several tests of a module ask."""

import pytest
from scripted import write_scripted
from served import serving

from ellm import LLM

TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}<|start|>"


@pytest.fixture(scope="module")
def served(llm):
    """One of the tiny model."""
    with serving(llm) as running:
        yield running


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """One of a model that thinks "iner" and says "anthe"."""
    script = ["<|start|>", "<think>", "in", "er", "</think>", "an", "the", "<|done|>"]
    tokens = {"special": ["<|start|>", "<|done|>"], "added": ["<think>", "</think>"], "eos": "<|done|>"}
    folder = write_scripted(tmp_path_factory.mktemp("thinker") / "model", script, template=TEMPLATE, **tokens)
    with LLM(folder) as llm, serving(llm) as running:
        yield running
