"""`ellm plan`: what a model would do on a machine that is only described."""

from __future__ import annotations

from functools import cache

from ellm.cli import plan_requests
from ellm.compiled import Compiled, Options, compile_model, read_source
from ellm.inspection.text import by_precision
from ellm.machine import description
from ellm.machine.description import Machine
from ellm.predict.planner import COMPARED, Estimate, Planner, what_helps
from ellm.scheduler.program import chosen
from ellm.serving.speculation import AUTO, takes_heads
from ellm.system.errors import InputError

PATH_SHOWN = 8
COLUMNS = f"{'time ms':>10}{'bound ms':>10}{'of bound':>10}{'scheduling':>12}"


def plan(
    model: str,
    machine: str,
    *,
    context: int | None,
    prompt: int | None,
    batch: int,
    dtype: str | None,
    kv: str | None,
    threads: int | None,
    expanded: bool,
    speculate: str,
    requests: str | None,
) -> None:
    """Print the report; with `expanded`, a long enough prompt is expanded in all of its steps.

    Prediction heads take memory as `speculate` has them, by auto if there is enough. With a trace of `requests`, it is
    served instead. Raises InputError for bad options, a bad machine file or trace, or a model that does not fit.
    """
    described = description.load(machine)
    source = read_source(model)
    positions = source.model.longest
    trace = None if requests is None else plan_requests.read(requests, positions)
    if trace is not None:
        for option, given in (("--context", context), ("--prompt", prompt), ("--expanded-prefill", expanded or None)):
            if given is not None:
                raise InputError(f"--requests and {option}: a trace says how long its requests are, in absorbed form")
        context, prompt = max(one.prompt + one.output for one in trace) - 1, max(one.prompt for one in trace)
    context = min(length("--context", context, 4096, positions), positions - 1)  # a token comes after these
    prompt = length("--prompt", prompt, 512, positions)

    heads = takes_heads(speculate, source, model)

    @cache
    def compiled(dtype: str | None, heads: bool) -> Compiled:
        return compile_model(
            source,
            Options(
                context=max(context + 1, prompt),
                chunk=None,
                isa=described.isa,
                expanded_prefill=expanded,
                dtype=dtype,
                kv=kv,
                workers=described.workers_of(threads),
                drafter=heads,
            ),
        )

    def planner_of(number: int, heads: bool) -> Planner:
        """Of the model's program of this number."""
        return Planner(
            lambda dtype: compiled(dtype, heads).programs[number], described, threads=threads, dtype=dtype, batch=batch
        )

    def planned(heads: bool) -> tuple[list[Planner], float]:
        """Of all of the model's programs, and the GB that others take beside the first."""
        found = [planner_of(number, heads) for number in range(len(compiled(None, heads).programs))]
        extra = sum(one.working_bytes(found[0].threads) for one in compiled(dtype, heads).every[1:])
        extra += sum(one.program.prompt_position_bytes * prompt for one in found)
        return found, extra / 1e9

    planners, extra = planned(heads)
    longest = max(context, prompt)
    if heads and speculate == AUTO and planners[0].memory_gb(longest) + extra > described.capacity_gb:
        heads = False
        planners, extra = planned(heads)
    planner, made = planners[0], compiled(dtype, heads)
    notes = made.notes(planner.threads) + made.heads(planner.threads)
    print("\n".join([*head_lines(model, planner, longest), *notes]), flush=True)
    check_fits(model, planner, longest, extra)
    if trace is not None:
        print("\n".join(plan_requests.lines(planner, trace)))
        return
    print("\n".join(speed_lines(planner, chosen(planners, prompt), context, prompt)), flush=True)
    print("\n".join(dtype_lines(planner, context)), flush=True)
    print("\n".join(help_lines(planner, context)))


def length(option: str, value: int | None, default: int, positions: int) -> int:
    """An option's number of tokens, by default as many as the model has if that is less. Raises InputError."""
    if value is None:
        return min(default, positions)
    if not 1 <= value <= positions:
        raise InputError(f"{option} {value}: this model has 1 to {positions} positions")
    return value


def check_fits(model: str, planner: Planner, context: int, extra: float) -> None:
    """Raises InputError if the machine has less memory than the model and `extra` GB need, with what would fit."""
    machine, needed = planner.machine, planner.memory_gb(context) + extra
    if needed > machine.capacity_gb:
        room = machine.capacity_gb - extra
        smaller = [one for one in COMPARED if planner.changed(dtype=one).memory_gb(context) <= room]
        hint = f"it would in {' or '.join(smaller)}" if smaller else "nor would it in any smaller dtype"
        raise InputError(
            f"{model}: does not fit: needs {needed:.1f} GB, {machine.name} has {machine.capacity_gb:g} GB; {hint}"
        )


def head_lines(model: str, planner: Planner, context: int) -> list[str]:
    """The model, the machine, and what memory it takes."""
    machine = planner.machine
    cache = planner.cache_bytes(context) / 1e9
    return [
        f"{model} on {machine.name}",
        f"machine      {planner.threads} of {machine.cores} cores, {planner.workers.read_rate:.0f} GB/s, "
        f"{_matmul(machine, planner.threads)}",
        f"weights      {planner.weights_gb:.1f} GB in {by_precision(planner.program.weight_bytes)}",
        f"memory       {planner.memory_gb(context):.1f} GB of {machine.capacity_gb:.0f} GB, of which {cache:.2f} GB "
        f"are keys and values of {planner.batch} x {context} tokens",
    ]


def speed_lines(planner: Planner, prefill: Planner, context: int, prompt: int) -> list[str]:
    """Time to first token, time per token by context, and the critical path."""
    first = prefill.prefill(prompt)
    points = sorted({min(128, context), *(n for n in (1024, 4096, 32768, 131072) if n < context), context})
    decodes = {point: planner.decode(point) for point in points}
    batch = f", {planner.batch} sequences a step" if planner.batch > 1 else ""
    chunk = min(prompt, planner.program.chunk)
    lines = [
        "",
        f"{'STEP':<28}{COLUMNS}{'cores wait':>12}{'GB read':>9}",
        f"{f'first token of {prompt}':<28}{estimate_columns(first)}",
        *(f"{f'a token after {at}':<28}{estimate_columns(one)}" for at, one in decodes.items()),
        f"{planner.batch * 1000 / decodes[context].ms:.1f} tokens/s after {context}{batch}; a prompt goes in steps of "
        f"{chunk} rows. Bound: bytes / bandwidth, or operations / rate.",
        "Scheduling: by how much a step were shorter if it were free.",
        "",
        *path_lines("CRITICAL PATH of a token", decodes[context]),
        *path_lines("CRITICAL PATH of the first token", first),
    ]
    return lines


def estimate_columns(one: Estimate) -> str:
    """The figures of one line."""
    return (
        f"{one.ms:>10.2f}{one.bound_ms:>10.2f}{one.bound_ms / one.ms:>10.0%}{one.scheduling:>12.1%}{one.waiting:>12.1%}"
        f"{one.memory_gb:>9.2f}"
    )


def path_lines(title: str, one: Estimate) -> list[str]:
    """The kinds of operators that the critical path spends most time in."""
    total = sum(one.path.values())
    ordered = sorted(one.path.items(), key=lambda item: -item[1])
    rest = sum(ms for _, ms in ordered[PATH_SHOWN:])
    lines = [f"{name:<40}{ms:>10.3f} ms{ms / total:>8.1%}" for name, ms in ordered[:PATH_SHOWN]]
    return [title, *lines, *([f"{'the rest':<40}{rest:>10.3f} ms{rest / total:>8.1%}"] if rest else [])]


def dtype_lines(planner: Planner, context: int) -> list[str]:
    """A token in each precision of the weights."""
    lines = ["", f"{'WEIGHTS IN':<28}{COLUMNS}{'memory GB':>12}"]
    for dtype in COMPARED:
        other = planner.changed(dtype=dtype)
        one, needed = other.decode(context), other.memory_gb(context)
        fits = "" if needed <= planner.machine.capacity_gb else "  does not fit"
        lines.append(
            f"{dtype:<28}{one.ms:>10.2f}{one.bound_ms:>10.2f}{one.bound_ms / one.ms:>10.0%}"
            f"{one.scheduling:>12.1%}{needed:>12.1f}{fits}"
        )
    kept = (
        "Smaller than bf16: matrices of more bits, but the head, the embedding and the routers; mxfp4: experts, if any."
    )
    return [*lines, kept]


def help_lines(planner: Planner, context: int) -> list[str]:
    """What would make a token fastest."""
    now = planner.decode(context).ms
    found = sorted(what_helps(planner, context).items(), key=lambda item: item[1])
    return ["", f"WHAT WOULD HELP (a token after {context}: {now:.2f} ms)"] + [
        f"{name:<40}{ms:>10.2f} ms{now / ms:>8.2f} x" for name, ms in found
    ]


def _matmul(machine: Machine, threads: int) -> str:
    kind = "AMX" if machine.matmul_rows > 1 else "vectors"
    return f"{threads * machine.matmul_tflops_per_core:.1f} TFLOP/s bf16 by {kind}"
