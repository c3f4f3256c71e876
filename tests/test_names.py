"""What a kernel or an operator is called stands in its record, its lowering, its reference and its body alone.

Everything else asks a record, so a new one is known everywhere as soon as it has its own.
"""

import ast
import re
from pathlib import Path

import pytest

from ellm.dsl.grammar import GRAMMAR
from ellm.kernels import contract, reference
from ellm.kernels.records import RECORDS

ROOT = Path(__file__).parent.parent
NAMES = {*RECORDS, *GRAMMAR}
HOMES = {
    "kernels/records.py": "the records of kernels",
    "dsl/grammar.py": "the records of operators",
    "kernels/reference.py": "the references",
    "dsl/lower.py": "lowering",
    "dsl/lower_attention.py": "lowering",
    "dsl/lower_experts.py": "lowering",
    "dsl/lowering.py": "lowering: the copy of a view",
    "dsl/ops.py": "the words that make the nodes",
    "dsl/value.py": "the words that make the nodes: +, [...], append",
    "dsl/trace.py": "the word that makes the first node",
    "dsl/__init__.py": "the words' names for export",
    "dsl/rewrite.py": "each fusion is a rule about operators that it names",
    "ellm/machine/limits.py": "runs the probes",
    "ellm/machine/measure.py": "measures a machine by single kernels",
}
OTHER_MEANINGS = {  # the same word for something else
    ("ellm/checkpoint/gguf_rope.py", "linear"),  # a kind of rope scaling
    ("ellm/pages/model.js", "logits"),  # a kind of group
    ("ellm/pages/model.js", "sample"),
    ("models/frequencies.py", "linear"),
    ("models/deepseek_v2.py", "softmax"),  # a value in config.json
    ("models/deepseek_v3.py", "sigmoid"),
    ("models/gpt_oss.py", "softmax"),  # how weights are normalised
    ("scheduler/interpret.py", "tokens"),  # a field of a step
    ("scheduler/interpret.py", "logits"),
    ("scheduler/interpret.py", "input_rows"),
    ("scheduler/tables.pyx", "tokens"),
    ("scheduler/tables.pyx", "logits"),
    ("scheduler/tables.pyx", "input_rows"),
}


def sources(*suffixes):
    for folder in ("dsl", "ellm", "kernels", "models", "scheduler"):
        for file in sorted((ROOT / folder).rglob("*")):
            linked = any(parent.is_symlink() for parent in file.parents) or "vendor" in file.parts
            if file.suffix in suffixes and not linked:
                yield file


def python_strings(text):
    """String constants that are no docstrings."""
    tree = ast.parse(text)
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in documents)
    return {node.value for node in found if isinstance(node.value, str)}


def quoted(text):
    """Words in quotes, and keys of JavaScript objects whose value is a string."""
    return set(re.findall(r"[\"'](\w+)[\"']", text)) | set(re.findall(r"(\w+): [\"']", text))


def strangers():
    """(file, name) of every name that stands outside of its homes."""
    found = set()
    for file in sources(".py", ".pyx", ".pxd", ".js"):
        name, text = str(file.relative_to(ROOT)), file.read_text()
        if name not in HOMES and file.name not in ("task.pxd",):
            found |= {(name, word) for word in (python_strings if file.suffix == ".py" else quoted)(text) & NAMES}
    return found


def test_names_stand_at_home_alone():
    assert strangers() - OTHER_MEANINGS == set()


def test_every_exception_is_needed():
    assert strangers() >= OTHER_MEANINGS
    for home in HOMES:
        assert python_strings((ROOT / home).read_text()) & NAMES, home


@pytest.mark.parametrize(
    "text", ['if kernel == "attend": pass', 'tasks = {"append": 1}', 'x = kernel in ("merge", "conv")', 'run("sample")']
)
def test_the_rule_catches_questions(text):
    assert python_strings(text) & NAMES


def test_the_rule_catches_javascript():
    assert quoted('operator.kernel === "head_linear" ? 1 : 0') & NAMES
    assert quoted('families = { attend: "attention", rest: 1 }') & NAMES


def test_each_kernel_has_a_struct_a_record_a_reference_and_a_body():
    assert set(RECORDS) == set(contract.FIELDS) == set(reference.KERNELS)
    assert all((ROOT / "kernels" / f"{kernel}.pxi").is_file() for kernel in RECORDS)
