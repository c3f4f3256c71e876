"""What the bits of keys and values follow from, beside the tokens."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path

import numpy as np

from ellm.serving.runtime import Runtime

STEP, PIECE = 1 << 20, 1 << 12  # bytes of the packed weights: of how many so many are looked at


def identity(runtime: Runtime) -> dict[str, str]:
    """Of a model in memory: digests of its weights (a sample), programs and kernels, and what these are, in words."""
    program = runtime.program
    programs = hashlib.sha256()
    for one in runtime.compiled.programs:
        programs.update(repr((one.graph, one.least_rows, one.caches, one.block_bytes, one.context)).encode())
    if len(runtime.compiled.programs) > 1:  # then it also matters how prompts are cut
        programs.update(str(runtime.chunk).encode())
    kernels = Path(str(importlib.import_module(f"ellm.kernels._{runtime.choice.isa}").__file__))
    return {
        "model": _sample(runtime.weights.array[: program.weights_bytes], [one.offset for one in program.weights]),
        "layout": programs.hexdigest(),
        "kernels": hashlib.sha256(kernels.read_bytes()).hexdigest(),
        "isa": runtime.choice.isa,
        "precision": " ".join(sorted(program.weight_bytes)),
        "kv": " ".join(sorted({cache.kind.name for cache in program.caches})),
    }


def _sample(weights: np.ndarray, offsets: list[int]) -> str:
    found = hashlib.sha256()
    for begin in sorted({*offsets, *range(0, len(weights), STEP)}):
        found.update(weights[begin : begin + PIECE].data)
    return found.hexdigest()
