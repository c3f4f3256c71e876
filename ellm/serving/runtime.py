"""A model that is ready to run: its programs, its packed weights and the workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ellm.checkpoint.loader import load_weights
from ellm.compiled import Compiled
from ellm.kernels import isa as isas
from ellm.kernels.spill import Spill
from ellm.scheduler import Pool, topology
from ellm.scheduler.placement import AUTO
from ellm.scheduler.pool import LoadedProgram
from ellm.scheduler.program import Program
from ellm.serving.model_sampling import read_sampling
from ellm.system import memory
from ellm.system.errors import InputError

CACHE_SHARE = 7 / 8  # of the memory that is free, for keys and values that no sequence uses


class NoRoom(InputError):
    """The memory for a model is not there."""


class Runtime:
    """A compiled model on this machine's cores: its packed weights, and workers that run its programs.

    The checkpoint that it was compiled from must be open until this is made, and closed then. `progress` is called with
    the bytes loaded so far and in all. `ignored` are the checkpoint's tensors that the model does not use, `sampling`
    is how it asks to be sampled. `spill` has what of the weights does not fit the bits that they are planned in.
    `executables` run the steps of its programs, the first one any, and `drafter` those of its prediction heads, if it
    was compiled with these; there are none while it is unloaded. Raises InputError if the weights, an option or this
    machine will not do.
    """

    def __init__(
        self,
        compiled: Compiled,
        choice: isas.Choice,
        *,
        threads: int | None = None,
        pin: str = AUTO,
        progress: Callable[[int, int], None] | None = None,
    ):
        source = compiled.source
        assert source.checkpoint is not None
        self.compiled, self.choice, self.checkpoint = compiled, choice, source.checkpoint
        self.program, self.chunk, self.context = compiled.program, compiled.chunk, compiled.context
        self.pool = Pool(threads, pin=pin)
        self.drafter: LoadedProgram | None = None
        try:
            checkpoint = self.checkpoint
            self.sampling = read_sampling(checkpoint.generation, checkpoint.generation_file, self.context)
            self.ignored = checkpoint.ignored(self.program)
            self.table = isas.table(choice.isa)
            self._load(progress)
        except BaseException:
            self.close()
            raise

    def __str__(self) -> str:
        """The kernels and workers that it runs on, and why these."""
        return f"{self.choice.isa} ({self.choice.reason}), {self.pool.placement}"

    def _load(self, progress: Callable[[int, int], None] | None) -> None:
        check_room(self.compiled.every, self.pool.threads, self.checkpoint.source, self.compiled.asked)
        self.weights = self._weights(progress)
        address = self.weights.address
        self.executables = [self.pool.load(program, self.table, address) for program in self.compiled.programs]
        if self.compiled.drafter is not None:
            self.drafter = self.pool.load(self.compiled.drafter, self.table, address)

    def unload(self) -> None:
        """Give the weights back, and the memory of the programs. No step may be running."""
        self.executables, self.drafter = [], None
        if hasattr(self, "weights"):
            self.weights.close()
            del self.weights

    def reload(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Have again what was unloaded, the weights from the files that they came from.

        Raises InputError if one of these is gone or not what it was, or there is no memory; then all is unloaded.
        """
        try:
            with self.checkpoint.reopened():
                self._load(progress)
        except BaseException:
            self.unload()
            raise

    def _weights(self, progress: Callable[[int, int], None] | None) -> memory.Region:
        """Mapped from the checkpoint's file if they are packed there, else packed into memory."""
        if self.checkpoint.packed:
            return self.checkpoint.packed.map(self.program, self.pool.placement, progress)
        program = self.program
        region = memory.Mapping(program.weights_bytes + program.spill_bytes, "the weights", huge=True)
        self.spill = Spill(region.address + program.weights_bytes, program.spill_bytes)
        try:
            load_weights(program.weights, self.checkpoint, region.address, self.pool.placement, progress, self.spill)
        except BaseException:
            region.close()
            raise
        return region

    @property
    def executable(self) -> LoadedProgram:
        """What runs any step."""
        return self.executables[0]

    @property
    def cache_bytes(self) -> int:
        """For keys and values that no sequence uses: most of what is free, beside weights mapped from a file."""
        mapped = self.program.weights_bytes if self.checkpoint.packed else 0
        return max(0, int((memory.available() - mapped) * CACHE_SHARE))

    @property
    def nodes(self) -> list[int]:
        """The NUMA nodes of its workers."""
        return topology.domains(self.pool.cores)

    def close(self) -> None:
        """Stop the workers and free the weights. No step may be running."""
        self.pool.close()
        self.unload()


def check_room(programs: Sequence[Program], threads: int, model: str, context: int | None = None) -> None:
    """Raise NoRoom if the memory that programs on the same weights take before the first token is not there.

    A `context` that was asked for must fit besides: keys and values of one sequence of so many tokens.
    """
    needed = programs[0].weights_bytes + sum(program.working_bytes(threads) for program in programs)
    there = memory.available()
    if needed > there:
        precisions = " and ".join(name for name in programs[0].weight_bytes if name != "f32")
        raise NoRoom(
            f"{model}: needs {memory.readable(needed)} of memory in {precisions}, "
            f"{memory.readable(there)} are available"
        )
    range_bytes = max(program.range_bytes for program in programs)
    if context is not None and needed + range_bytes > there:
        raise NoRoom(
            f"{model}: context {context}: its keys and values need {memory.readable(range_bytes)} of memory, "
            f"{memory.readable(there - needed)} are left beside the weights"
        )
