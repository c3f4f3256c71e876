"""The bytes of packed weights are those of this layout: where they change, packed files must be made anew.

`python -m pytest tests/checkpoint/test_packed_layout.py` fails when they do: then raise LAYOUT in
ellm/checkpoint/packed_file.py, and write the table anew with `python tests/checkpoint/test_packed_layout.py`.
"""

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "helpers"))  # where this is run as a program

import tiny
from tiny_gguf import write_blocks

from ellm.checkpoint import open_checkpoint
from ellm.checkpoint.loader import load_weights
from ellm.checkpoint.packed_file import LAYOUT
from ellm.compiled import Options, Source, compile_model
from ellm.kernels.gguf_blocks import BLOCKS
from ellm.kernels.spill import Spill
from ellm.scheduler.placement import Placement

FILE = Path(__file__).with_name("packed_layout.json")
WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}  # what is held in 12 bits is whole blocks
FOLDERS = {
    "bf16": ("LlamaForCausalLM", None),
    "bf12": ("LlamaForCausalLM", None),
    "f16": ("LlamaForCausalLM", "f16"),
    "fp8": ("DeepseekV3ForCausalLM", "fp8"),
    "mxfp4": ("GptOssForCausalLM", "mxfp4"),
    "experts": ("Qwen3MoeForCausalLM", None),
}
DTYPES = ("bf12",)
CASES = [*FOLDERS, *BLOCKS]


def write(place: Path, case: str) -> Path:
    if case in FOLDERS:
        architecture, precision = FOLDERS[case]
        sizes = WIDE if case in DTYPES else {}
        return tiny.write_checkpoint(place / "model", architecture, precision=precision, layers=2, **sizes)
    return write_blocks(place, "LlamaForCausalLM", lambda stem: case)


def digest(path: Path, case: str) -> str:
    """SHA-256 of the weights region, without the constants, which the compiler computes."""
    with open_checkpoint(path) as checkpoint:
        dtype = case if case in DTYPES else "bf16-raw" if case in FOLDERS and FOLDERS[case][1] is None else None
        program = compile_model(Source.of(checkpoint), Options(context=64, chunk=64, dtype=dtype)).program
        region = np.zeros(program.weights_bytes + program.spill_bytes, np.uint8)
        spill = Spill(region.ctypes.data + program.weights_bytes, program.spill_bytes)
        stored = [weight for weight in program.weights if weight.layout != "constant"]
        placement = Placement(sorted(os.sched_getaffinity(0))[:1])
        load_weights(stored, checkpoint, region.ctypes.data, placement, spill=spill)
    assert case not in DTYPES or case in program.weight_bytes
    return hashlib.sha256(region[: stored[-1].offset + stored[-1].bytes]).hexdigest()


@pytest.mark.parametrize("case", CASES)
def test_packed_bytes_are_of_this_layout(tmp_path, case):
    table = json.loads(FILE.read_text())
    assert (LAYOUT, digest(write(tmp_path, case), case)) == (table["layout"], table["sha256"][case]), __doc__


def main() -> None:
    found = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as place:
            found[case] = digest(write(Path(place), case), case)
    FILE.write_text(json.dumps({"layout": LAYOUT, "sha256": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
