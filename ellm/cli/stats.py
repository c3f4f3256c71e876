"""`--stats`: how fast an answer was, beside what this machine can reach."""

from __future__ import annotations

import statistics
from contextlib import closing

from ellm.cli.terminal import note
from ellm.inspection import operator_kinds
from ellm.inspection.text import by_precision
from ellm.llm import LLM
from ellm.machine.limits import Limits
from ellm.predict.roofline import Cost
from ellm.scheduler.program import chosen
from ellm.serving.output import Output

SAMPLES = 5


def report(llm: LLM, output: Output) -> None:
    """Print the figures of one answer to stderr; measures the limits first, which takes a moment."""
    runtime = llm.runtime
    with closing(Limits(runtime.pool, runtime.table)) as limits:
        read = statistics.median(limits.read() for _ in range(SAMPLES))
        matmul = statistics.median(limits.matmul() for _ in range(SAMPLES))
    rows = min(len(output.prompt_token_ids) - output.metrics.cached_tokens, runtime.chunk)
    prefill = Cost.of(chosen(runtime.executables, rows).program)
    speeds = speed(prefill, Cost.of(runtime.program), output, read, matmul)
    note("\n".join([*speeds, drafts(llm, output), *setup(llm)]))


def speed(prefill: Cost, decode: Cost, output: Output, read: float, matmul: float) -> list[str]:
    """Lines on prefill and decode, given what each does and the limits in bytes and operations a second."""
    metrics = output.metrics
    prompt, cached = len(output.prompt_token_ids), metrics.cached_tokens
    lines = []
    if output.token_ids:
        flops = prefill.prefill_flops(cached, prompt) / metrics.prefill_seconds
        reuse = f" ({cached} more were in the cache)" if cached else ""
        lines.append(
            f"prefill  {prompt - cached} tokens{reuse}, {(prompt - cached) / metrics.prefill_seconds:.1f} tok/s, "
            f"{flops / 1e12:.3f} TFLOP/s = {flops / matmul:.0%} of the {matmul / 1e12:.3f} measured here"
        )
    tokens, steps = len(output.token_ids) - 1, metrics.steps - 1
    if tokens > 0:
        size = statistics.fmean(map(decode.decode_bytes, range(prompt, prompt + tokens)))
        rate = steps * size / metrics.decode_seconds
        lines.append(
            f"decode   {tokens} tokens, {tokens / metrics.decode_seconds:.1f} tok/s, {size / 1e9:.3f} GB/step, "
            f"{rate / 1e9:.1f} GB/s = {rate / read:.0%} of the {read / 1e9:.1f} measured here"
        )
    return lines


def drafts(llm: LLM, output: Output) -> str:
    """A line on the tokens that were verified beside the next ones."""
    metrics = output.metrics
    figures = (
        f", {metrics.drafted_tokens} tokens drafted, {metrics.accepted_tokens} accepted, "
        f"{len(output.token_ids)} tokens in {metrics.steps} steps"
    )
    return f"drafts   {llm.speculation.reason}{figures if llm.speculation.drafts else ''}"


def setup(llm: LLM) -> list[str]:
    """Lines on what ran: ISA and why, threads, kernel and precision of every kind of operator."""
    runtime = llm.runtime
    return [
        f"isa      {runtime.choice.isa} ({runtime.choice.reason})",
        f"workers  {runtime.pool.placement}",
        f"steps    of a prompt have {runtime.chunk} rows at most",
        "dtype    bf16 keys and values, f32 sums and residual stream, weights as below",
        f"rounded  activations, to {operator_kinds.activations(runtime.program)}",
        f"weights  a token reads {by_precision(Cost.of(runtime.program).weight_bytes)}",
        *runtime.compiled.notes(runtime.pool.threads),
        *runtime.compiled.heads(runtime.pool.threads),
        *operator_kinds.table(runtime.program),
    ]
