"""From the name of a model to its programs: the one way there, for whatever runs, shows or predicts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ellm import program_cache
from ellm.checkpoint import Checkpoint, aliases, open_checkpoint
from ellm.checkpoint.json_file import read_json
from ellm.kernels import isa as isas
from ellm.kernels.routes import routes
from ellm.scheduler.program import Program
from ellm.system.errors import InputError
from ellm.system.memory import readable

if TYPE_CHECKING:
    from ellm.models import Model

CHUNK = 512  # most rows in a step, at least, unless told otherwise
LONGEST_CHUNK = 1 << 16  # a program's size grows with it
_EXPERT_ROWS = {"amx": 256, "avx512": 32, "avx512f": 32, "avx2": 32, "portable": 8}
"""Rows of an expert that take about as long to multiply as its weights to be read from a core's part of memory."""
_FLOPS = {"amx": 1e12, "avx512": 1e11, "avx512f": 1e11, "avx2": 5e10, "portable": 5e9}
"""What a core does in a second of a long prompt, roughly."""
_STEP_SECONDS = 5  # a step takes no longer, as nothing else is answered meanwhile, if it need not
_ARENA_SHARE = 16  # of the weights' bytes: that part at most is the arena
EXPANDED_ROWS = 192
"""Least rows of a sequence in a step that expands: for fewer, absorbed form is less work. With DeepSeek's sizes,
512 * (128 + 128) multiplications expand a key of a head and save each row that sees it 2 * 512 - 128 - 128 of them."""


@dataclass(frozen=True)
class Source:
    """What a name stands for: a model's configuration and, unless there is none or it is not looked at, its checkpoint.

    Without one the configuration also says in what precisions weights are. The checkpoint may be open or closed.
    """

    config: Mapping[str, Any]
    checkpoint: Checkpoint | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Source:
        """What a checkpoint is the source of."""
        return cls(checkpoint.config, checkpoint)

    @cached_property
    def model(self) -> Model:
        """What the configuration describes. Raises InputError if that is no model."""
        import ellm.models  # where a program is at hand, it takes longer to import this than to do all else

        if self.checkpoint is None:
            return ellm.models.from_config(self.config)
        return ellm.models.from_config(self.config, self.checkpoint.precision, self.checkpoint.config_file)

    @property
    def no_drafter(self) -> str:
        """Why the model cannot draft by prediction heads; empty if it can."""
        if self.checkpoint is not None and self.checkpoint.packed:
            return self.checkpoint.packed.no_drafter
        if not self.model.drafts:
            return "the model has no prediction heads (num_nextn_predict_layers)"
        layer = f"model.layers.{self.model.config.num_hidden_layers}"
        names = [f"{layer}.{part}.weight" for part in ("eh_proj", "enorm", "hnorm", "shared_head.norm")]
        missing = [name for name in names if self.checkpoint is not None and self.checkpoint.tensor_of(name) is None]
        return f"num_nextn_predict_layers is not 0, but there is no tensor {missing[0]}" if missing else ""


def read_source(name: str | Path, *, no_weights: bool = False) -> Source:
    """What `name` stands for; its checkpoint is closed, and None if its weights are absent or not to be looked at.

    Of a hub name, only config.json is downloaded, unless it has none; weights count as there if they are in the local
    cache. Raises InputError if there is no such model or its files are broken.
    """
    from ellm.checkpoint.hub import download, is_hub_name
    from ellm.checkpoint.text_part import text_config

    path = aliases.path_of(str(name))
    if not path.exists() and is_hub_name(str(name)):
        snapshot = download(str(name), progress=False, files=["config.json"])
        path = snapshot if (snapshot / "config.json").exists() else path
    config = path / "config.json"
    stored = any(any(path.glob(pattern)) for pattern in ("model*.safetensors*", "*.gguf"))
    if config.is_file() and (no_weights or not stored):
        return Source(text_config(read_json(config)))
    with open_checkpoint(path if path.exists() else name) as checkpoint:
        return Source(checkpoint.config) if no_weights else Source.of(checkpoint)


@dataclass(frozen=True)
class Compiled:
    """A model's programs, which share packed weights and KV ranges: the first for any step, others for longer ones.

    What a later one keeps in a range is behind the `range_bytes` of the first.
    """

    source: Source
    programs: tuple[Program, ...]  # by rising `least_rows`
    context: int  # most positions of a sequence
    asked: int | None  # the same as it was asked for; None: all that the model has
    chunk: int  # most rows of a step
    dtype: str | None = None  # what matrices were to be packed in; None: as they are stored
    drafter: Program | None = None
    """Of the prediction heads: it shares weights and ranges with the others, and what it keeps lies in their blocks."""

    @property
    def program(self) -> Program:
        """The one for any step."""
        return self.programs[0]

    @property
    def range_bytes(self) -> int:
        """Virtual size of one sequence's KV range."""
        return max(program.range_bytes for program in self.programs)

    @property
    def every(self) -> tuple[Program, ...]:
        """Those that are chosen by a step's rows, and the drafter."""
        return self.programs if self.drafter is None else (*self.programs, self.drafter)

    def notes(self, threads: int) -> list[str]:
        """A line on what a dtype did, and on what each program but the first gives up and takes on so many workers."""
        packed = [] if self.dtype is None else [_packed(self.program, self.dtype)]
        return packed + [_price(self.program, variant, threads) for variant in self.programs[1:]]

    def heads(self, threads: int) -> list[str]:
        """A line on what prediction heads take on so many workers, if there are any."""
        return [] if self.drafter is None else [_price_of_heads(self.program, self.drafter, threads)]


def chosen_chunk(program: Program, isa: str, cores: int) -> int:
    """The most rows of a step that suit a model, of which this is a program for any number of them, and a machine.

    A row goes to a few experts of many, so CHUNK rows are few for each, and all weights are read for them. So many that
    reading hides behind multiplying are better, unless a step would take too long, or its arena too much memory.
    """
    spread = max((one.experts / one.top_k for one in program.operators if one.experts), default=1.0)
    wanted = _EXPERT_ROWS[isa] * spread
    quick = _STEP_SECONDS * cores * _FLOPS[isa] / max(1, sum(one.flops for one in program.operators))
    small = program.weights_bytes / _ARENA_SHARE / (program.arena_bytes / program.chunk)
    rows = int(min(wanted, quick, small, program.context, LONGEST_CHUNK))
    return max(CHUNK, rows // CHUNK * CHUNK)


@dataclass(frozen=True)
class Options:
    """How a model is compiled.

    `isa` is whose kernels will run it: how many rows a task takes suits them, and in how few bits they hold the numbers
    of weights; it changes no bit of a result, nor does for how many `workers` there are to be tasks.
    """

    context: int | None = None  # most positions of a sequence; None: the model's own
    chunk: int | None = CHUNK  # rows of a step; None: `chosen_chunk` has the choice, for a core a worker
    isa: str = "portable"
    dtype: str | None = None
    """What matrices are packed in, as `ellm.dsl.packing_of` says; None: as they are stored, or were packed."""
    activations: str | None = None
    """A name of `ellm.kernels.routes`, for where they meet formats of whole numbers; None: what stands there for the
    format and the ISA."""
    kv: str | None = None  # what keys and values are kept in: "bf16" (None) or "int8"
    expanded_prefill: bool = False
    """Long prompts of a model with latent attention have a program of their own, which expands the cached latents to
    keys and values: such rows do not have the bits of absorbed ones, which all others are."""
    workers: int = 1
    drafter: bool = False
    """Also compile the prediction heads, if the model has any."""


def compile_model(source: Source, options: Options = Options()) -> Compiled:
    """Compile a model.

    Raises InputError if the context is more than the model has, there are no latents to expand, no step has so many
    rows, or there is no such dtype or kv, or these keys and values cannot be kept so.
    """
    chunk = options.chunk
    if options.expanded_prefill and chunk is not None and chunk < EXPANDED_ROWS:
        raise InputError(f"expanded prefill: chunk {chunk}: it takes steps of at least {EXPANDED_ROWS} rows")
    import ellm.dsl

    packed = source.checkpoint.packed if source.checkpoint else None
    packing = _Packing(options.dtype, ellm.dsl.packings_of(options.dtype, options.isa))
    if packed and options.dtype is None:
        packing = _Packing(packed.dtype, packed.packings)
    context = source.model.context if options.context is None else options.context
    options = replace(options, drafter=options.drafter and not source.no_drafter)
    programs = _sized(source.model, context, options, packing)
    drafter = programs.pop() if options.drafter else None
    chunk = chunk or programs[0].chunk
    return Compiled(source, tuple(programs), context, options.context, chunk, options.dtype, drafter)


class _Packing(NamedTuple):
    """What matrices are packed in, as users write it, and what holds the numbers of a format in fewer bits."""

    dtype: str | None
    packings: Mapping[str, str]


def _sized(model: Model, context: int, options: Options, packing: _Packing) -> list[Program]:
    """Compile for a chunk, or for the one that suits what comes of CHUNK; the last program is the drafter, if any."""
    programs = _compile(model, context, options.chunk or CHUNK, options, packing)
    rows = options.chunk or chosen_chunk(programs[0], options.isa, options.workers)
    return programs if rows == (options.chunk or CHUNK) else _compile(model, context, rows, options, packing)


def _compile(model: Model, context: int, chunk: int, options: Options, packing: _Packing) -> list[Program]:
    import ellm.dsl

    if not 1 <= context <= model.longest:
        raise InputError(f"context {context}: this model has 1 to {model.longest} positions")
    variants, graphs = [("", 1)], [model.graph(context)]
    if options.expanded_prefill:
        variants.append(("expanded prefill", EXPANDED_ROWS))
        graphs.append(model.graph(context, expanded=True))
    programs = ellm.dsl.compile_all(
        graphs,
        context=context,
        chunk=chunk,
        row_block=isas.ROW_BLOCK[options.isa],
        packing=ellm.dsl.as_stored if packing.dtype is None else ellm.dsl.packing_of(packing.dtype),
        packings=packing.packings,
        routes=routes(options.isa, options.activations),
        kv=options.kv or "bf16",
        workers=options.workers,
        drafter=model.drafter(context) if options.drafter else None,
    )
    if options.drafter:
        variants.append(("prediction heads", 1))
    named = zip(variants, programs, strict=True)
    return [replace(program, variant=name, least_rows=rows) for (name, rows), program in named]


def compile_to_run(source: Source, options: Options) -> Compiled:
    """`compile_model` for a source whose checkpoint is there; the programs of a packed one are kept for the next time.

    Raises InputError too if a packed checkpoint was packed for another dtype, without expanded prefill, or by an ellm
    that has another order of weights.
    """
    packed = source.checkpoint.packed if source.checkpoint else None
    if packed is None:
        return compile_model(source, options)
    packed.check_asked(options.dtype, options.expanded_prefill)
    context = (packed.context or source.model.context) if options.context is None else options.context
    drafter = options.drafter and not packed.no_drafter
    as_packed = replace(options, context=context, dtype=None, expanded_prefill=packed.expanded, drafter=drafter)
    key = packed.header.digest, *astuple(as_packed)
    programs = program_cache.load(1 + packed.expanded + drafter, *key)
    if programs is None:
        programs = _sized(source.model, context, as_packed, _Packing(packed.dtype, packed.packings))
        packed.check_fits(programs[0])
        program_cache.store(programs, *key)
    heads = programs.pop() if drafter else None
    programs = programs if options.expanded_prefill else programs[:1]
    chunk = options.chunk or programs[0].chunk
    return Compiled(source, tuple(programs), context, options.context, chunk, drafter=heads)


def _packed(program: Program, dtype: str) -> str:
    made, kept = Counter[str](), Counter[str]()
    for weight in program.weights:
        if weight.layout == "tiles":
            stored = " and ".join(dict.fromkeys(source.format for source in weight.sources))
            counted, name = (
                (kept, stored) if stored == weight.packed.numbers else (made, f"{stored} as {weight.format}")
            )
            counted[name] += weight.bytes

    def listed(sizes: Counter[str]) -> str:
        return ", ".join(f"{name} ({readable(size)})" for name, size in sizes.items()) or "nothing"

    return f"--dtype {dtype}: packed {listed(made)}; as stored: {listed(kept)}"


def _added(program: Program, other: Program) -> str:
    """What of the weights another program reads beside the first."""
    added = other.weight_offsets() - program.weight_offsets()
    return readable(sum(weight.bytes for weight in other.weights if weight.offset in added))


def _price_of_heads(program: Program, drafter: Program, threads: int) -> str:
    layers = {operator.layer for operator in drafter.operators}
    kept = sum(cache.kind.position_bytes for cache in drafter.caches if cache.layer in layers)
    return (
        f"{drafter.variant}: {_added(program, drafter)} more of weights, {readable(drafter.working_bytes(threads))} of "
        f"arena and scratch, and {readable(kept)} per token; --speculate lookup and off do without"
    )


def _price(program: Program, variant: Program, threads: int) -> str:
    return (
        f"{variant.variant}: where a step has {variant.least_rows} or more rows of a prompt, their bits differ from "
        f"those of decoded rows, of shorter steps and of caches made by them; it takes {_added(program, variant)} more "
        f"of weights, {readable(variant.working_bytes(threads))} of arena and scratch, and "
        f"{readable(variant.prompt_position_bytes)} per token of a prompt until that is done"
    )
