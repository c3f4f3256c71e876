"""Expanded prefill: long prompts of a model with latent attention by a program of their own, which expands the cached
latents to keys and values. Off unless asked for: such rows do not have the bits of absorbed ones, which all others are.
"""

from __future__ import annotations

import ellm.dsl
from ellm.kernels import contract
from ellm.models import Model
from ellm.scheduler.program import Program
from ellm.system.errors import InputError
from ellm.system.memory import readable

EXPANDED_ROWS = 192
"""Least rows of a sequence in a step that expands: for fewer, absorbed form is less work. With DeepSeek's sizes,
512 * (128 + 128) multiplications expand a key of a head and save each row that sees it 2 * 512 - 128 - 128 of them."""


def compile_programs(model: Model, *, context: int, chunk: int, expanded: bool) -> list[Program]:
    """The program of a model and, if `expanded`, the one for long prompts, on the same weights and KV ranges.

    Raises InputError if the model has no latents to expand, or no step so many rows.
    """
    if expanded and chunk < EXPANDED_ROWS:
        raise InputError(f"expanded prefill: chunk {chunk}: it takes steps of at least {EXPANDED_ROWS} rows")
    graphs = [model.graph(), model.graph(expanded=True)] if expanded else [model.graph()]
    return ellm.dsl.compile_all(graphs, context=context, chunk=chunk)


def token_bytes(program: Program, prefill: Program) -> int:
    """Expanded keys and values of one position."""
    return (prefill.range_bytes - program.range_bytes) // program.context


def price(program: Program, prefill: Program, threads: int) -> str:
    """The line that says what expanded prefill gives up, and the memory that it takes."""
    weights = 0
    for op, kernel in enumerate(prefill.op_kernel):
        if prefill.kernels[kernel] == "expand_latent":
            args = contract.unpack("expand_latent", prefill.args[op])
            weights += args["heads"] * args["to_keys_stride"]
    return (
        f"expanded prefill: where a step has {EXPANDED_ROWS} or more rows of a prompt, their bits differ from those of "
        f"decoded rows, of shorter steps and of caches made by them; it takes {readable(weights)} more of weights, "
        f"{readable(prefill.working_bytes(threads))} of arena and scratch, and "
        f"{readable(token_bytes(program, prefill))} per token of a prompt until that is done"
    )
