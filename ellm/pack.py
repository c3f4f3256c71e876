"""Packs a model into one file: weights as they will lie in memory, and all else that it takes to run them."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ellm import __version__
from ellm.checkpoint import Checkpoint, packed_tokenizer
from ellm.checkpoint.loader import load_weights
from ellm.checkpoint.names import files_of
from ellm.checkpoint.packed import About, rows
from ellm.checkpoint.packed_file import Writer, writing
from ellm.checkpoint.packed_weights import fingerprint
from ellm.checkpoint.sources import check_tensors
from ellm.compiled import Compiled, Options, Source, compile_model
from ellm.dsl import packings_of
from ellm.kernels import isa as isas
from ellm.kernels.spill import Spill
from ellm.scheduler import topology
from ellm.scheduler.contents import WeightEntry
from ellm.scheduler.placement import Placement
from ellm.scheduler.program import Program
from ellm.system import memory
from ellm.system.errors import InputError

BATCH = 1 << 28  # bytes of weights that are packed before they are written; a larger weight is by itself

Progress = Callable[[int, int], None]


def pack(
    checkpoint: Checkpoint,
    out: Path,
    *,
    dtype: str | None = None,
    expanded_prefill: bool = False,
    progress: Progress | None = None,
) -> None:
    """Pack an open checkpoint into a file, in the place of a packed one that may be there.

    It takes memory for the largest weight, not for all. There are the weights of prediction heads, if the model has
    any. With `dtype`, matrices are packed as `ellm.dsl.packing_of` says; with `expanded_prefill`, there are the weights
    for that too. `progress` is called with bytes packed so far and in all. Raises InputError if the checkpoint or an
    option will not do, or the file cannot be written; none is left.
    """
    if checkpoint.packed:
        raise InputError(f"{checkpoint.source}: is packed already")
    checkpoint.tokenizer  # noqa: B018  # whatever is wrong with it is said before weights are packed
    members = [*packed_tokenizer.members(checkpoint)]
    isa = isas.choose().isa  # a format that pays here serves every other ISA too
    source = Source.of(checkpoint)
    context, compiled = _compile(source, isa, dtype, expanded_prefill)
    program = compiled.program
    check_tensors(program.weights, checkpoint)
    about = About(
        ellm=__version__,
        source=checkpoint.source,
        files=stamps(Path(checkpoint.source)),
        layouts=_layouts(compiled),
        dtype=dtype,
        packings=dict(packings_of(dtype, isa)),
        expanded=expanded_prefill,
        no_drafter=source.no_drafter,
        context=context,
        config=checkpoint.config,
        generation=checkpoint.generation,
        notes=checkpoint.notes,
        unused_metadata=[*checkpoint.unused_metadata],
        tensors=rows(checkpoint.tensors.values()),
    )
    with writing(out) as writer:
        _write_weights(writer, program, checkpoint, progress)
        for name, content in members:
            writer.add_member(name, content)
        writer.finish(asdict(about))


def stamps(path: Path) -> list[list[Any]]:
    """Name, bytes and time of change in ns of each file of a model: one of which none differs is the same."""
    found = [(file, file.stat()) for file in files_of(path)]
    return [[file.name, status.st_size, status.st_mtime_ns] for file, status in found]


def _compile(source: Source, isa: str, dtype: str | None, expanded_prefill: bool) -> tuple[int | None, Compiled]:
    """The model's own context, or None, and programs: every context has the same weights in the same order."""
    try:
        context = source.model.context
    except InputError:  # it has other frequencies for each context, so one must be asked for when it runs
        context = None
    options = Options(context or 1, isa=isa, dtype=dtype, expanded_prefill=expanded_prefill, drafter=True)
    return context, compile_model(source, options)


def _layouts(compiled: Compiled) -> list[str]:
    """`PackedWeights.layouts`: what heads alone read lies behind all else."""
    weights = compiled.program.weights
    if compiled.drafter is None:
        return [fingerprint(weights)]
    shared = set().union(*(program.weight_offsets() for program in compiled.programs))
    begin = min(compiled.drafter.weight_offsets() - shared)
    return [fingerprint([weight for weight in weights if weight.offset < begin]), fingerprint(weights)]


def _write_weights(writer: Writer, program: Program, checkpoint: Checkpoint, progress: Progress | None) -> None:
    placement = Placement(topology.choose_cores(None), pinned=False)
    total, done = sum(weight.bytes for weight in program.weights), 0

    def moved(count: int, _: int) -> None:
        if progress:
            progress(done + count, total)

    region = memory.Mapping(program.weights_bytes + program.spill_bytes, "weights", huge=True)
    spill = Spill(region.address + program.weights_bytes, program.spill_bytes)
    for weights, begin, end in _batches(program):
        load_weights(weights, checkpoint, region.address, placement, moved, spill)
        writer.add_weights(region.array[begin:end])
        region.clear(begin, end)
        done += sum(weight.bytes for weight in weights)
    writer.add_weights(region.array[program.weights_bytes :][: -(-spill.used // mmap.PAGESIZE) * mmap.PAGESIZE])
    region.close()  # after an error its views are in that: both go at once


def _batches(program: Program) -> Iterator[tuple[list[WeightEntry], int, int]]:
    """The parts of the weights region: the weights in each, and from where to where it is."""
    ends = [*(weight.offset for weight in program.weights[1:]), program.weights_bytes]
    begin, batch = 0, list[WeightEntry]()
    for weight, end in zip(program.weights, ends, strict=True):
        batch.append(weight)
        if (end - begin >= BATCH and end % mmap.PAGESIZE == 0) or end == program.weights_bytes:
            yield batch, begin, end
            begin, batch = end, []
