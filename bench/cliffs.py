"""Where a token costs far more than beside it, by `ellm plan`'s simulation: `python bench/cliffs.py [MODEL ...]`.

A table a model: milliseconds of a step that gives each of so many sequences a token (and of its bytes / bandwidth), by
batch and context. Below it, what takes over 1.3 times as long with one more sequence, or a sixteenth more context, as
its bytes let one expect.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ellm.compiled import Options, Source, compile_model
from ellm.machine import description
from ellm.predict.planner import Estimate, Planner
from ellm.scheduler.program import Program

CONFIGS = Path(__file__).with_name("configs")
MODELS = {"qwen3-coder-480b-a35b": "fp8", "qwen3-30b-a3b": "bf16", "deepseek-v3": None, "gpt-oss-120b": None}
CONTEXTS = (128, 1024, 4096, 32768, 122880)  # of which a sixteenth more still fits, where the model goes so far
BATCHES = (1, 2, 4, 8, 16, 32, 64)
CLIFF = 1.3

Decode = Callable[[int, int], Estimate]
"""(batch, context) -> a token of each sequence."""


def decoding(config: Mapping[str, Any], dtype: str | None, machine: description.Machine) -> Decode:
    """Steps of a model from its config alone."""
    source, workers = Source(config), machine.workers_of(None)

    @cache
    def program(context: int) -> Program:
        return compile_model(source, Options(context=context, isa=machine.isa, dtype=dtype, workers=workers)).program

    @cache
    def decode(batch: int, context: int) -> Estimate:
        most = next(one for one in CONTEXTS if context <= longer(one))
        return Planner(lambda _: program(longer(most) + 1), machine, dtype=dtype, batch=batch).decode(context)

    return decode


def longer(context: int) -> int:
    """Its neighbour."""
    return context + context // 16


def cliff(decode: Decode, before: tuple[int, int], after: tuple[int, int]) -> str:
    """A line that tells of one between neighbours, or nothing."""
    a, b = decode(*before), decode(*after)
    if b.ms / a.ms <= CLIFF * b.bound_ms / a.bound_ms:
        return ""
    return f"batch {after[0]} after {after[1]}: {b.ms:.1f} ms; batch {before[0]} after {before[1]}: {a.ms:.1f}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--machine", default="xeon-6980p")
    args = parser.parse_args()
    machine = description.load(args.machine)
    for model in args.models or MODELS:
        config = json.loads((CONFIGS / model / "config.json").read_text())
        contexts = [one for one in CONTEXTS if longer(one) < config["max_position_embeddings"]]
        decode, found = decoding(config, MODELS[model], machine), ""
        print(f"| {model}: batch | {' | '.join(f'after {context}' for context in contexts)} |")
        print(f"|---|{'---|' * len(contexts)}")
        for batch in BATCHES:
            tokens = [decode(batch, context) for context in contexts]
            print(f"| {batch} | {' | '.join(f'{one.ms:.1f} ({one.bound_ms:.1f})' for one in tokens)} |", flush=True)
            for context in contexts:
                found += cliff(decode, (batch, context), (batch + 1, context))
                found += cliff(decode, (batch, context), (batch, longer(context)))
        print(f"\n{found or 'no cliff'}\n", flush=True)


if __name__ == "__main__":
    main()
