"""What `ellm plan` says of big models on a described machine, as one table: `python bench/plans.py [--machine NAME]`.

Milliseconds of a token after 4096, of its bytes / bandwidth, and the share of the cores' time outside of kernels; and
tokens per second of a prompt of 2048 in one step.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ellm.compiled import Options, Source, compile_model
from ellm.machine import description
from ellm.predict.planner import Estimate, Planner

CONFIGS = Path(__file__).with_name("configs")
CONTEXT, CHUNK = 4096, 2048
CASES = [
    ("qwen3-coder-480b-a35b", "fp8"),
    ("qwen3-coder-480b-a35b", "bf16"),
    ("qwen3-coder-480b-a35b", "bf12"),
    ("qwen3-30b-a3b", "bf16"),
    ("qwen3-30b-a3b", "fp8"),
    ("deepseek-v3", None),
    ("gpt-oss-120b", None),
]


def figures(machine: description.Machine) -> Iterator[tuple[str, Estimate, Estimate]]:
    """Name of a model and its weights, a token of it, and a prompt."""
    for name, dtype in CASES:
        source = Source(json.loads((CONFIGS / name / "config.json").read_text()))

        def compiled(dtype: str | None, source: Source = source):
            options = Options(context=2 * CONTEXT, chunk=CHUNK, isa=machine.isa, dtype=dtype)
            return compile_model(source, replace(options, workers=machine.workers_of(None))).program

        planner = Planner(compiled, machine, dtype=dtype)
        yield f"{name}, {dtype or 'as released'}", planner.decode(CONTEXT), planner.prefill(CHUNK)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", default="xeon-6980p")
    machine = description.load(parser.parse_args().machine)
    print(
        f"| a token after {CONTEXT} on {machine.name} | ms | bound | cores wait | prompt of {CHUNK}, tokens/s | bound |"
    )
    print("|---|---|---|---|---|---|")
    for name, token, prompt in figures(machine):
        speeds = f"{1000 * CHUNK / prompt.ms:.0f} | {1000 * CHUNK / prompt.bound_ms:.0f}"
        print(f"| {name} | {token.ms:.1f} | {token.bound_ms:.1f} | {token.waiting:.0%} | {speeds} |", flush=True)


if __name__ == "__main__":
    main()
