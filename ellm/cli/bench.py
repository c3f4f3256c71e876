"""`ellm bench`: prefill and decode in turn with the limits probe, in one run on the same cores.

`--json` prints one object: `model`, `isa`, `threads`, `weight_bytes` (packed, by precision), `arena_bytes` and
`results`, a list of objects with the fields of `Result`.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from typing import Any

from ellm.cli.skipped import note_price, note_skipped
from ellm.cli.terminal import loading, note
from ellm.llm import LLM
from ellm.machine.limits import Limits
from ellm.profiling.bencher import Bencher, Result
from ellm.serving.runtime import Runtime
from ellm.system.errors import InputError


def bench(
    model: str,
    prompts: list[int],
    generate: int,
    depth: int,
    repeat: int,
    chunk: int | None,
    *,
    as_json: bool,
    options: dict[str, Any],
) -> None:
    """Measure and print. Raises InputError if a number is out of range."""
    for name, value in (("--generate", generate), ("--depth", depth), ("--repeat", repeat)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")
    with loading(model) as progress:
        longest = max([*prompts, depth + generate])
        opened = LLM(model, context=longest, chunk=chunk, progress=progress, **options)
    with opened as llm, closing(Limits(llm.runtime.pool, llm.runtime.table)) as limits:
        runtime = llm.runtime
        note_skipped(runtime)
        note_price(runtime)
        bencher = Bencher(runtime, limits)
        results = []
        for tokens in prompts:
            note(f"prefill of {tokens} tokens, {repeat} times")
            results.append(bencher.prefill(tokens, repeat))
        note(f"decode of {generate} tokens after {depth}, {repeat} times")
        results.append(bencher.decode(depth, generate, repeat))
        print(as_text(runtime, model, results) if not as_json else as_object(runtime, model, results))


def as_text(runtime: Runtime, model: str, results: list[Result]) -> str:
    """A table for people."""
    lines = [f"{model}: {runtime}"]
    for result in results:
        speed = f"{result.name:<20} {result.tokens_per_second:>9.1f} tok/s"
        share = f"median of {result.pairs} pairs: {result.share:.1%} of the limit"
        if result.bytes_per_token is None:
            figures = f"{result.rate / 1e12:.3f} TFLOP/s   {share} ({result.limit / 1e12:.3f} TFLOP/s)   "
            figures += f"steps of {result.rows} rows"
        else:
            figures = f"{result.bytes_per_token / 1e9:.3f} GB/token   {result.rate / 1e9:.1f} GB/s   "
            figures += f"{share} ({result.limit / 1e9:.1f} GB/s)"
        lines.append(f"{speed}   {figures}")
    return "\n".join(lines)


def as_object(runtime: Runtime, model: str, results: list[Result]) -> str:
    """One JSON object."""
    report = {
        "model": model,
        "isa": runtime.choice.isa,
        "threads": runtime.pool.threads,
        "weight_bytes": runtime.program.weight_bytes,
        "arena_bytes": runtime.program.arena_bytes,
        "results": [asdict(result) for result in results],
    }
    return json.dumps(report, indent=2)
