"""`ellm inspect`: a model's operators, tasks and memory, and views of them; config.json is enough."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ellm.checkpoint import Checkpoint, aliases
from ellm.checkpoint.held import sample
from ellm.cli.skipped import skipped
from ellm.cli.views import Subject, Views, load
from ellm.compiled import Options, compile_model, read_source
from ellm.inspection import operator_kinds
from ellm.inspection.steps import Step
from ellm.inspection.text import by_precision, chain
from ellm.kernels import isa as isas
from ellm.kernels.formats import FORMATS
from ellm.predict.roofline import Cost
from ellm.scheduler import topology
from ellm.scheduler.program import Program
from ellm.serving.speculation import OFF, takes_heads
from ellm.system.errors import InputError
from ellm.system.memory import readable

NOT_LOOKED_AT = "The weights were not looked at: their precisions follow config.json."


def inspect(model: str, options: Options, *, no_weights: bool, speculate: str, isa: str | None, views: Views) -> None:
    """Print the views that are asked for, or else the summary, of a model that is compiled for `isa` (None: the best).

    With expanded prefill, of the program for long prompts. Prediction heads are there as `speculate` has them.
    """
    choice = isas.choose(isa)
    options = replace(options, isa=choice.isa)
    subject = read_subject(model, no_weights, options, speculate)
    if views.wanted:
        plain = Options(options.context, isa=options.isa)
        other = read_subject(views.diff, no_weights, plain, speculate) if views.diff is not None else None
        for line in [*price_lines(subject), *views.write(subject)]:
            print(line, file=sys.stderr)
        for line in views.lines(subject, other):
            print(line)
    else:
        print("\n".join(summary(subject, choice)))


def summary(subject: Subject, choice: isas.Choice) -> list[str]:
    """Operators, tasks and memory."""
    program = subject.program
    return [
        f"OPERATORS (kernels for {choice.isa}: {choice.reason})",
        *operator_lines(program, reasons(subject)),
        "",
        *task_lines(program),
        "",
        *memory_lines(subject.compiled.program if subject.compiled else program),
        *held_lines(subject),
        *packed_lines(subject),
        *price_lines(subject),
        *unused_lines(subject),
    ]


def price_lines(subject: Subject) -> list[str]:
    """What expanded prefill gives up, and what it and prediction heads take beside the memory of all other steps."""
    if subject.compiled is None:
        return []
    workers = len(topology.choose_cores(None))
    return subject.compiled.notes(workers) + subject.compiled.heads(workers)


def unused_lines(subject: Subject) -> list[str]:
    """Which of several models this is, and what of configuration and checkpoint is not used, or was not looked at."""
    if subject.compiled is None:
        return []
    source = subject.compiled.source
    unread = source.model.unread
    lines = [f"not used: {len(unread)} fields of the configuration: {', '.join(unread)}"] if unread else []
    if source.checkpoint is None:
        return [*lines, NOT_LOOKED_AT]
    checkpoint = source.checkpoint
    lines += skipped(checkpoint.ignored(subject.program), source.model.config.num_hidden_layers)
    if checkpoint.unused_metadata:
        lines.append(f"metadata not used: {', '.join(checkpoint.unused_metadata)}")
    return [*checkpoint.notes, *lines]


def reasons(subject: Subject) -> dict[operator_kinds.OperatorKind, str]:
    """Why each kind of operator computes in its precision; a saved program does not say."""

    def why(kind: operator_kinds.OperatorKind, names: list[str]) -> str:
        if subject.compiled is None:
            return ""
        source = subject.compiled.source
        if source.checkpoint:
            return stored_as(source.checkpoint, kind.precision, names, subject.compiled.dtype)
        return configured_as(source.config, source.model.precision(names[0]), kind.precision, subject.compiled.dtype)

    return {kind: why(kind, names) for kind, names in weights_of(subject.program).items()}


def read_subject(model: str, no_weights: bool, options: Options, speculate: str = OFF) -> Subject:
    """A model, compiled, or a saved program (.npz), which can no longer be compiled in another way."""
    path = aliases.path_of(model)
    if path.suffix == ".npz":
        for name in ("expanded_prefill", "dtype", "activations", "kv"):
            if getattr(options, name):
                raise InputError(f"{path}: a saved program is as it is: --{name.replace('_', '-')} needs a model")
        return load(path)
    source = read_source(model, no_weights=no_weights)
    compiled = compile_model(source, replace(options, drafter=takes_heads(speculate, source, model)))
    return Subject(Path(model).absolute().name, compiled.programs[-1], compiled)


def operator_lines(program: Program, why: dict[operator_kinds.OperatorKind, str]) -> list[str]:
    """Which kernel runs each kind of operator, in which precision, and why."""
    used = sorted({kind.precision for kind in why})
    return [
        *operator_kinds.table(program, why),
        *(f"{precision} weights are {FORMATS[precision].computed}" for precision in used),
        f"activations are rounded to {operator_kinds.activations(program)}",
    ]


def weights_of(program: Program) -> dict[operator_kinds.OperatorKind, list[str]]:
    """The checkpoint's names of the matrices of each kind of operator that has any: those of one layer."""
    found = {}
    for operator in program.operators:
        kind = operator_kinds.OperatorKind.of(operator)
        if kind.precision:
            matrices = {
                role: one for role, one in operator.weights.items() if len(one.shape) > 1 and "bias" not in role
            }
            found[kind] = [one.name for one in matrices.values()]
    return found


def stored_as(checkpoint: Checkpoint, precision: str, names: list[str], dtype: str | None) -> str:
    """Why a kernel computes with a precision: the dtypes of the tensors in the checkpoint."""
    tensors = [checkpoint.tensor_of(name) for name in names]
    dtypes = {tensor.dtype if tensor else "nothing (missing)" for tensor in tensors}
    changed = dtypes != {FORMATS[precision].stored.dtype}
    return f"stored as {', '.join(sorted(dtypes))}{conversion(dtype) if changed else ''}"


def configured_as(config: Mapping[str, Any], stored: str, precision: str, by: str | None) -> str:
    """Why a kernel computes with a precision, if config.json says in which one the weights are stored."""
    method = (config.get("quantization_config") or {}).get("quant_method")
    dtype = config.get("dtype") or config.get("torch_dtype") or "not given"
    changed = conversion(by) if stored != precision else ""
    if FORMATS[stored].k_per_scale:
        return f"quant_method {method}{changed}"
    return f"not quantized, dtype {dtype}{changed}" if method else f"dtype {dtype}{changed}"


def conversion(dtype: str | None) -> str:
    """Why a matrix is packed otherwise than it is stored."""
    return ", converted when loaded" if dtype is None else f", packed by --dtype {dtype}"


def task_lines(program: Program) -> list[str]:
    """Tasks and events of a decode step and of a full prefill step, by kernel, and their critical paths."""
    workers = len(topology.choose_cores(None))
    steps = {name: Step(program, rows, workers) for name, rows in (("decode", 1), ("prefill", program.chunk))}
    size = f"{len(program.op_names)} operators, {len(program.groups)} groups, {len(program.events)} events"
    lines = [
        f"TASKS ({size}; {program.blocks} blocks of {program.row_block} rows, {workers} workers)",
        f"{'kernel':<22}{'operators':>10}" + "".join(f"{f'{name} {step.rows}':>14}" for name, step in steps.items()),
    ]
    kernel_of_group = program.op_kernel[program.groups["op"]]
    count = Counter(program.op_kernel.tolist())
    for number, kernel in enumerate(program.kernels):
        sums = "".join(f"{step.tasks[kernel_of_group == number].sum():>14}" for step in steps.values())
        lines.append(f"{kernel:<22}{count[number]:>10}{sums}")
    lines.append(f"{'all tasks':<32}" + "".join(f"{step.tasks.sum():>14}" for step in steps.values()))
    walks = {name: step.walk() for name, step in steps.items()}
    lines.append(f"{'events':<32}" + "".join(f"{one.events:>14}" for one in walks.values()))
    lines.append(f"{'critical path in tasks':<32}" + "".join(f"{one.length:>14}" for one in walks.values()))
    lines.append(f"The critical path of decode: {chain(program, steps['decode'], walks['decode'])}")
    if len(program.wakes):
        lines.append("The experts' tasks are those of rows that are spread over all experts evenly.")
    return lines


def memory_lines(program: Program) -> list[str]:
    """What the program keeps and what a token touches, its arena beside the least that any plan could do with."""
    cost = Cost.of(program)
    plan = program.plan
    shared = ""
    if program.shared_bytes:
        shared = f", and {program.shared_bytes} bytes that all share (lower bound {plan.shared_lower_bound})"
    last = program.context - 1
    return [
        "MEMORY",
        f"weights      {readable(program.weights_bytes)}, packed ({by_precision(program.weight_bytes)})",
        f"a token      touches {readable(cost.weight_bytes.total())} of weights ({by_precision(cost.weight_bytes)}) "
        f"and up to {readable(cost.cache_bytes(last))} of keys and values",
        f"  computes   {cost.row_flops / 1e9:.3f} GFLOP, and {cost.logit_flops / 1e9:.3f} for its logits",
        *cache_lines(program),
        f"  reserved   {readable(program.range_bytes)} of address space per sequence of {program.context} tokens, "
        f"touched as it grows",
        f"arena        {readable(program.arena_bytes)}: {program.blocks} sections of {plan.section_bytes} bytes "
        f"(lower bound {plan.lower_bound}){shared}",
        f"scratch      {readable(program.scratch_bytes)} per worker",
        f"partials     {readable(4 * program.partials * program.partial_floats)} of attention",
    ]


def held_lines(subject: Subject) -> list[str]:
    """In how few bits numbers of another format are held, and how many are exceptions in a part of the checkpoint."""
    program, lines = subject.program, []
    checkpoint = subject.compiled.source.checkpoint if subject.compiled else None
    for name, size in program.weight_bytes.items():
        weights = [weight for weight in program.weights if weight.format == name and weight.packed.packs]
        if not weights:
            continue
        bits = 8 * size / sum(weight.experts * weight.k * sum(run[2] for run in weight.runs) for weight in weights)
        found = f"; {sample(checkpoint.source, weights)}" if checkpoint and not checkpoint.packed else ""
        lines.append(f"{name:<13}holds {weights[0].packed.packs} in {bits:.2f} bits a weight{found}")
    return lines


def packed_lines(subject: Subject) -> list[str]:
    """What a packed file holds that can be left out."""
    checkpoint = subject.compiled.source.checkpoint if subject.compiled else None
    with_heads = checkpoint and checkpoint.packed and not checkpoint.packed.no_drafter
    return ["packed       with prediction heads"] if with_heads else []


def cache_lines(program: Program) -> list[str]:
    """What each kind of cache takes, and what may not be done with it."""
    lines = []
    for kind, count in program.cache_kinds.items():
        position, sequence = readable(count * kind.position_bytes), readable(count * kind.sequence_bytes)
        words = "" if kind.cuttable else "; only a prompt that goes on from its end reuses it"
        words += "" if kind.kept else "; given back once a prompt is computed"
        words += f"; given back {kind.window} tokens later, where memory is needed" if kind.window else ""
        lines.append(f"caches       {count} of {kind.name}: {position} per token, {sequence} per sequence{words}")
    return lines
