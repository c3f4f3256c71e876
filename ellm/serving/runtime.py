"""A model that is ready to run: its checkpoint, its program, its packed weights and the workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from pathlib import Path

from ellm.checkpoint import open_checkpoint
from ellm.checkpoint.loader import load_weights
from ellm.compiled import CHUNK, Source, compile_model
from ellm.kernels import isa as isas
from ellm.scheduler import Pool
from ellm.scheduler.pool import LoadedProgram
from ellm.scheduler.program import Program
from ellm.serving.model_sampling import read_sampling
from ellm.system import memory
from ellm.system.errors import InputError

LONGEST_CHUNK = 1 << 16  # a program's size grows with it


class Runtime:
    """Opens, compiles and loads `model` (a folder, a GGUF file, a hub name or an alias).

    `progress` is called with the bytes loaded so far and in all. `ignored` are the checkpoint's tensors that the model
    does not use, `sampling` is how it asks to be sampled. `executables` run the steps of its programs, the first one all.
    Raises InputError if the model, an option or this machine will not do.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        threads: int | None = None,
        context: int | None = None,
        chunk: int = CHUNK,
        isa: str | None = None,
        expanded_prefill: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ):
        self._closers: list[Callable[[], None]] = []
        for name, value in (("threads", threads), ("context", context), ("chunk", chunk)):
            if isinstance(value, bool) or not isinstance(value, Integral | None):
                raise InputError(f"{name} must be a whole number, not {value!r}")
        if not 1 <= chunk <= LONGEST_CHUNK:
            raise InputError(f"chunk must be from 1 to {LONGEST_CHUNK}, not {chunk}")
        self.choice = isas.choose(isa)
        try:
            self.checkpoint = open_checkpoint(model, progress=progress)
            self._closers.append(self.checkpoint.close)
            self.tokenizer = self.checkpoint.tokenizer  # whatever is wrong with it is said before weights are loaded
            self.compiled = compile_model(
                Source.of(self.checkpoint),
                context=context,
                chunk=chunk,
                isa=self.choice.isa,
                expanded_prefill=expanded_prefill,
            )
            self.model, self.program = self.compiled.source.model, self.compiled.program
            self.context = self.model.context if context is None else context
            self.chunk = chunk
            file = self.checkpoint.generation_file
            self.sampling = read_sampling(self.checkpoint.generation, file, self.context)
            self.pool = Pool(threads)
            self._closers.append(self.pool.close)
            check_room(self.compiled.programs, self.pool.threads, str(model), context)
            self.weights = memory.Mapping(self.program.weights_bytes, "the weights", huge=True)
            load_weights(self.program, self.checkpoint, self.weights.address, self.pool.cores, progress)
            self.ignored = self.checkpoint.ignored(self.program)
            self.checkpoint.close()
            self.table = isas.table(self.choice.isa)
            address = self.weights.address
            self.executables = [self.pool.load(program, self.table, address) for program in self.compiled.programs]
        except BaseException:
            self.close()
            raise

    @property
    def executable(self) -> LoadedProgram:
        """What runs any step."""
        return self.executables[0]

    def close(self) -> None:
        """Stop the workers and free the weights. No step may be running."""
        while self._closers:
            self._closers.pop()()
        if hasattr(self, "weights"):
            self.weights.close()
            del self.weights


def check_room(programs: Sequence[Program], threads: int, model: str, context: int | None = None) -> None:
    """Raise InputError if the memory that programs on the same weights take before the first token is not there.

    A `context` that was asked for must fit besides: keys and values of one sequence of so many tokens.
    """
    needed = programs[0].weights_bytes + sum(program.working_bytes(threads) for program in programs)
    there = memory.available()
    if needed > there:
        precisions = " and ".join(name for name in programs[0].weight_bytes if name != "f32")
        raise InputError(
            f"{model}: needs {memory.readable(needed)} of memory in {precisions}, "
            f"{memory.readable(there)} are available"
        )
    range_bytes = max(program.range_bytes for program in programs)
    if context is not None and needed + range_bytes > there:
        raise InputError(
            f"{model}: context {context}: its keys and values need {memory.readable(range_bytes)} of memory, "
            f"{memory.readable(there - needed)} are left beside the weights"
        )
