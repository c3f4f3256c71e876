"""Which experts the kernels choose: a program runs with a recorder around the kernel `route`."""

import ctypes
import dataclasses
from contextlib import closing

import numpy as np

from ellm import LLM
from ellm.kernels import contract
from ellm.scheduler import StepInput
from ellm.serving.runtime import Runtime
from ellm.system.memory import Mapping


class Task(ctypes.Structure):
    """ellm_task of kernels/task.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("args", "step", "arena", "section")),
        ("section_bytes", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("scratch", "error")),
        *((name, ctypes.c_int32) for name in ("row_block", "block", "row", "rows", "index", "worker")),
    ]


Kernel = ctypes.CFUNCTYPE(None, ctypes.POINTER(Task))


class RoutedSequence:
    """One sequence, step by step. `experts` has what the last step chose: int32 [rows, top_k] of each layer with
    experts, in their order, ascending within a row. `executable` is what ran, of the program for the longest steps."""

    def __init__(self, runtime: Runtime):
        self.vocab = runtime.program.vocab
        self._cache = Mapping(runtime.compiled.range_bytes, "the KV range")
        self._route = Kernel(runtime.table.addresses["route"])
        self._recorder = Kernel(self._record)
        self._chosen: dict[int, list[tuple[int, np.ndarray]]] = {}  # by the address of the operator's arguments
        addresses = dict(runtime.table.addresses, route=ctypes.cast(self._recorder, ctypes.c_void_p).value)
        table = dataclasses.replace(runtime.table, addresses=addresses)
        program = runtime.compiled.programs[-1]
        self.executable = runtime.pool.load(program, table, runtime.weights.address)
        self.experts: list[np.ndarray] = []

    def step(self, tokens: np.ndarray, position: int) -> None:
        """Run tokens [T] from this position on."""
        count = len(tokens)
        self._chosen.clear()
        self.executable.run(
            StepInput.of(
                np.arange(position, position + count),
                tokens,
                ranges=[self._cache.address],
                logit_row=[count - 1],
                vocab=self.vocab,
            )
        )
        layers = [sorted(blocks, key=lambda block: block[0]) for _, blocks in sorted(self._chosen.items())]
        self.experts = [np.concatenate([ids for _, ids in blocks]) for blocks in layers]

    def close(self) -> None:
        """Free the keys and values."""
        self._cache.close()

    def _record(self, pointer) -> None:
        self._route(pointer)
        task = pointer.contents
        args = contract.unpack("route", ctypes.string_at(task.args, contract.ARGS_BYTES))
        begin = task.arena + args["ids"] + 4 * task.row * args["top_k"]
        ids = np.ctypeslib.as_array((ctypes.c_int32 * (task.rows * args["top_k"])).from_address(begin))
        ordered = np.sort(ids.reshape(task.rows, -1), axis=1)
        self._chosen.setdefault(task.args, []).append((task.row, ordered))


def routed_experts(folder, tokens: np.ndarray, **options) -> list[np.ndarray]:
    """`experts` of a RoutedSequence for tokens [T] in one step."""
    with (
        LLM(folder, chunk=len(tokens), **options) as llm,
        closing(RoutedSequence(llm.runtime)) as sequence,
    ):
        sequence.step(tokens, 0)
        return sequence.experts
