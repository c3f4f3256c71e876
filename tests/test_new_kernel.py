"""docs/add-a-kernel.md, followed: a kernel that the tests make up, in a copy of the tree, through every command.

The places that the page lists are all that is edited. The kernel, `negate`, is the smallest there can be; a model that
negates twice is the model that it was.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import write_checkpoint

ROOT = Path(__file__).parent.parent
COPIED = ("dsl", "ellm", "kernels", "models", "scheduler", "setup.py")

STRUCT = """/* out = -x. 1 task. */
typedef struct ellm_negate {
    ellm_buffer x;            /* f32 [rows, width] */
    ellm_buffer out;          /* f32 [rows, width] */
    ellm_int width;
} ellm_negate;

"""
LOOP = """static inline void vector_negate(const float *x, float *out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = -x[i];
}

"""
DECLARATION = "    void vector_negate(const float *x, float *out, int64_t n)\n"
BODY = """# negate: out = -x, f32 [rows, width]. 1 task.

cdef void negate(const ellm_task *task) noexcept nogil:
    cdef const ellm_negate *op = <const ellm_negate *> task.args
    vector_negate(
        <const float *> (task.section + op.x), <float *> (task.section + op.out), task.rows * op.width
    )
"""
REFERENCE = '''def negate(task: Task) -> None:
    """out = -x, f32 [rows, width]."""
    task.buffer(task.out, task.width)[:] = -task.buffer(task.x, task.width)


'''
WORD = '''

def negate(x: Value) -> Value:
    """-x, [T, width]."""
    return _record("negate", (x,))
'''
LOWERING = """def _negate(low: Lowering, key: int, node: Node) -> None:
    x = low.dense(node.inputs[0]).buffer
    args: dict[str, Argument] = {"x": x, "out": low.store(key, "negate").buffer}
    low.emit("negate", "negate", key, args | {"width": math.prod(features(node.shape))})


"""
RULE = """def _negate(node: Node, inputs: Sequence[Node]) -> Shape:
    _rows(inputs[0].shape)
    return inputs[0].shape


"""
EDITS = {  # file -> (text that it has, text put in front of where that stands last); None: a new file, "": at its end
    "kernels/arguments.h": [("/* out = a + b. 1 task.", STRUCT)],
    "kernels/vector.h": [("#endif\n", LOOP)],
    "kernels/vector.pxd": [('\ncdef extern from "cache.h"', DECLARATION)],
    "kernels/negate.pxi": [(None, BODY)],
    "kernels/records.py": [('    "swiglu": ', '    "negate": _rows(lambda args: args["width"]),\n')],
    "kernels/reference.py": [("_REFERENCES: ", REFERENCE), ("swiglu, add,", "negate, ")],
    "dsl/ops.py": [("", WORD)],
    "dsl/__init__.py": [("    rms_norm,\n", "    negate,\n"), ('    "rms_norm",\n', '    "negate",\n')],
    "dsl/grammar.py": [('    "swiglu": ', '    "negate": Form(_negate, ("x",)),\n'), ("def _swiglu(", RULE)],
    "dsl/lower.py": [("def _swiglu(", LOWERING), ('    "swiglu": _swiglu', '    "negate": _negate,\n')],
}
BUILD = """
import sys
from pathlib import Path
sys.argv[1:] = ["-q", "build_ext", "--inplace"]
source = Path("setup.py").read_text().replace('glob("ellm/kernels/*.pyx") + glob("ellm/scheduler/*.pyx")',
    '["ellm/kernels/_portable.pyx"]').replace('"-O3"', '"-O1"')
exec(compile(source, str(Path("setup.py").resolve()), "exec"), {"__name__": "__main__", "__file__": "setup.py"})
"""


def edit(tree):
    for name, edits in EDITS.items():
        file = tree / name
        for before, text in edits:
            old = "" if before is None else file.read_text()
            assert before is None or old.count(before) >= 1, f"{name} has no {before!r}"
            at = old.rindex(before) if before else len(old)
            file.write_text(old[:at] + text + old[at:])


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the tree with the kernel in it, its portable kernels built, and a model whose blocks end in it."""
    copy = tmp_path_factory.mktemp("tree")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, symlinks=True, ignore=shutil.ignore_patterns("*.c", "__pycache__"))
        else:
            shutil.copy(source, copy / name)
    edit(copy)
    layers = copy / "models/layers.py"
    text = layers.read_text()
    assert text.count("return logits(") == 1 and text.count("\nfrom ellm.dsl import ") == 1
    text = text.replace("\nfrom ellm.dsl import ", "\nfrom ellm.dsl import negate\nfrom ellm.dsl import ")
    layers.write_text(re.sub(r"return logits\((\w+)", r"return logits(negate(negate(\1))", text))
    environment = {**os.environ, "PYTHONPATH": str(copy), "ELLM_ISA": "portable"}
    subprocess.run([sys.executable, "-c", BUILD], cwd=copy, env=environment, check=True)
    return copy, environment


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny", "LlamaForCausalLM")


def run(tree, *arguments):
    copy, environment = tree
    command = [sys.executable, "-m", "ellm.cli.main", *map(str, arguments)]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_lists_every_place():
    text = (ROOT / "docs/add-a-kernel.md").read_text()
    listed = re.findall(r"^\*\*\d+\. [^`]*((?:`[\w/.]+`(?:, )?)+)", text, re.MULTILINE)
    places = {place.replace("swiglu", "negate") for group in listed for place in re.findall(r"`([^`]+)`", group)}
    assert {place for place in places if not place.startswith("tests/")} == set(EDITS)


def test_inspect(tree, folder, tmp_path):
    assert re.search(r"^negate\s+2\s", run(tree, "inspect", folder), re.MULTILINE)
    page = tmp_path / "page.html"
    run(tree, "inspect", folder, "--html", page)
    assert "out = -x." in page.read_text()


def test_plan(tree, folder):
    assert "ms" in run(tree, "plan", folder, "--machine", "xeon-6980p")


def test_profile(tree, folder):
    assert "negate" in run(tree, "profile", folder)


def test_run(tree, folder):
    """Twice negated, the answer is that of the model without."""
    command = ["run", folder, "one two", "--max-tokens", "8", "--temperature", "0"]
    plain = subprocess.run(
        [sys.executable, "-m", "ellm.cli.main", *map(str, command)],
        env=os.environ | {"ELLM_ISA": "portable"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run(tree, *command) == plain.stdout != ""
