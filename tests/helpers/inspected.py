"""Golden texts of inspected programs: `python tests/helpers/inspected.py` writes them anew."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from ellm import dsl, models
from ellm.inspection import text
from ellm.inspection.diff import diff
from ellm.scheduler.program import Program

FOLDER = Path(__file__).parents[1] / "golden" / "inspection"
CONFIGS = Path(__file__).parents[1] / "configs"
CORES = [2, 3, 5]


def program(name: str = "qwen3-moe", **changes) -> Program:
    """A program of two row blocks for a configuration with these changes."""
    config = json.loads((CONFIGS / f"{name}.json").read_text()) | {"num_hidden_layers": 3} | changes
    return dsl.compile(models.from_config(config).graph(), context=512, chunk=32, row_block=16)


TEXTS: dict[str, Callable[[], list[str]]] = {
    "tasks.qkv": lambda: text.tasks(program(), "layers.1.qkv", CORES),
    "tasks.gate_up": lambda: text.tasks(program(), "layers.1.experts.gate_up", CORES),
    "tasks.combine": lambda: text.tasks(program(), "layers.1.experts.combine", CORES),
    "tasks.embed": lambda: text.tasks(program(), "embed", CORES),
    "memory": lambda: text.buffers(program()),
    "dot": lambda: text.dot(program(), "tiny"),
    "diff": lambda: diff(program(), program(num_hidden_layers=2, num_experts_per_tok=2)),
    "diff.dense": lambda: diff(program(), program(mlp_only_layers=[1])),
}


def golden(name: str) -> str:
    """A text as its golden file has it: without the numbers of model lines, which any edit above them moves."""
    return re.sub(r"(models/\w+\.py):\d+", r"\1", "\n".join(TEXTS[name]())) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in TEXTS:
        (FOLDER / f"{name}.txt").write_text(golden(name))
