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


CALL = ['{"name": ', '"time", ', '"arguments": ', '{"zone": ', '"CET"}}']
CALLER = (
    "{% for t in tools or [] %}{{ t.function.name }};{% endfor %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>"
    "{{ c.function.name }}{{ c.function.arguments | tojson }}{{ c.id }}</tool_call>{% endfor %}{% endfor %}{{ '\n' }}"
)


@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    """One of a model that says "Look:" and calls the tool `time` with {"zone": "CET"}."""
    words = ["Look: ", *CALL, "<tool_call>", "</tool_call>"]
    script = ["\u010a", "Look: ", "<tool_call>", *CALL, "</tool_call>", "<|im_end|>"]
    folder = tmp_path_factory.mktemp("caller") / "model"
    write_scripted(folder, script, template=CALLER, added=words, eos="<|im_end|>")
    with LLM(folder, threads=1) as llm, serving(llm) as running:
        yield running


@pytest.fixture(scope="module")
def spaced(tmp_path_factory):
    """A server of a model that calls the tool `time` of the namespace `clock`."""
    words = ["<tool_call>", '{"name": "clock__time", ', '"arguments": ', '{"zone": "CET"}}', "</tool_call>"]
    folder = tmp_path_factory.mktemp("spaced") / "model"
    write_scripted(folder, ["\u010a", *words, "<|im_end|>"], template=CALLER, added=words, eos="<|im_end|>")
    with LLM(folder, threads=1) as llm, serving(llm) as running:
        yield running
