"""Runs one operator on guarded memory, natively and by its NumPy reference.

All memory is poisoned: what nobody placed reads as NaN. A run returns the outputs and fails if any other byte changed:
guards between and around buffers, rows past the last one, other sections, KV positions, scratch past its size.
"""

import importlib
import os
from collections.abc import Callable
from dataclasses import fields

import amx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

from ellm.kernels import contract, isa, reference
from ellm.kernels.layout import to_bf16
from ellm.kernels.records import RECORDS

GUARD = 256
SHARED_BYTES = 1 << 22
POISON = 0xFF


def _isas() -> list:
    """The ISAs to test, the one in ELLM_ISA or all; AMX on its emulator where the CPU lacks it."""
    found: list = []
    for name in [os.environ["ELLM_ISA"]] if os.environ.get("ELLM_ISA") else isa.ISAS:
        obstacle = amx.obstacle() if name == "amx" else isa.available()[name]
        found.append(pytest.param(name, marks=pytest.mark.skip(reason=obstacle)) if obstacle else name)
    return found


ISAS = _isas()
each_isa = pytest.mark.parametrize("isa", ISAS)


def for_cases(examples: int, **strategies: SearchStrategy) -> Callable:
    """Makes `check(isa, **drawn)` a test of every ISA; of AMX, which may be emulated, with fewer examples."""

    def decorate(check: Callable) -> Callable:
        @each_isa
        def test(isa: str) -> None:
            count = max(2, examples // 6) if isa == "amx" else examples
            checks = [HealthCheck.too_slow]
            run = given(**strategies)(lambda **drawn: check(isa, **drawn))
            settings(max_examples=count, deadline=None, derandomize=True, suppress_health_check=checks)(run)()

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


class Memory:
    """`size` poisoned bytes, 64-byte aligned, between guards."""

    def __init__(self, size: int):
        raw = np.full(size + 2 * GUARD + 64, POISON, np.uint8)
        start = -(raw.ctypes.data + GUARD) % 64 + GUARD
        self.all = raw[start - GUARD : start + size + GUARD]
        self.bytes = raw[start : start + size]
        self.address = self.bytes.ctypes.data

    @classmethod
    def of(cls, array: np.ndarray) -> "Memory":
        made = cls(array.nbytes)
        made.bytes[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return made

    def view(self, shape: tuple[int, ...], dtype: type, offset: int = 0, stride: int | None = None) -> np.ndarray:
        """[rows, ...] at a byte offset, rows `stride` elements apart."""
        inner = np.empty(shape, dtype).strides
        row = np.dtype(dtype).itemsize * stride if stride else inner[0]
        return np.ndarray(shape, dtype, self.bytes.data, offset, (row, *inner[1:]))


class Case:
    """One operator on one row block: place what it reads, declare what it writes, then `run`."""

    def __init__(self, kernel: str, rows: int, *, row_block: int = 64, block=0, blocks=1, section=1 << 19):
        self.kernel, self.rows, self.row_block, self.block = kernel, rows, row_block, block
        self.section_bytes = section
        self.args: dict = {"activations": 0} if "activations" in contract.FIELDS[kernel] else {}
        self.arena = Memory(blocks * self.section_bytes + SHARED_BYTES)
        self.shared_used = blocks * self.section_bytes + GUARD
        self.memories = [self.arena]
        self.outputs: dict[str, np.ndarray] = {}
        self.used = GUARD
        row = block * row_block
        none = np.zeros(0, np.int32)
        self.step = reference.StepView(
            rows=row + rows, logit_rows=row + rows, sample_rows=row + rows, tokens=none, positions=none, slots=none,
            ranges=np.zeros(0, np.uint64), blocks=np.zeros((0, 0), np.uint64), context_blocks=0,
            logit_row=none, logits=np.zeros((0, 0), np.float32),
            sampling=None, sampled=None, logprob=None, partials=np.zeros(0, np.float32),
            items=[], item_begin=[], merges=[], merge_begin=[],
        )  # fmt: skip

    def reserve(self, row_bytes: int) -> int:
        """The offset of a buffer for a full row block, in every section."""
        offset = self.used
        self.used += -(-self.row_block * row_bytes // 64) * 64 + GUARD
        assert self.used <= self.section_bytes
        return offset

    def activation(self, field: str, shape: tuple[int, ...], dtype: type, stride: int | None = None) -> np.ndarray:
        """A view [rows, *shape] of a new buffer whose rows are `stride` elements apart."""
        width = stride or int(np.prod(shape))
        self.args[field] = self.reserve(width * np.dtype(dtype).itemsize)
        offset = self.block * self.section_bytes + self.args[field]
        return self.arena.view((self.rows, *shape), dtype, offset, stride)

    def place(self, field: str, x: np.ndarray, stride: int | None = None) -> np.ndarray:
        """Place f32 or bf16 rows x [rows, ...]; the pad up to `stride` is zero."""
        view = self.activation(field, (stride or int(np.prod(x.shape[1:])),), x.dtype.type)
        view[:] = 0
        view[:, : int(np.prod(x.shape[1:]))] = x.reshape(self.rows, -1)
        return view

    def output(self, field: str, shape: tuple[int, ...], dtype: type) -> None:
        """Declare an activation that the kernel writes."""
        self.outputs[field] = self.activation(field, shape, dtype)

    def shared(self, field: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """A view of new memory that all row blocks share."""
        self.args[field] = self.shared_used
        view = self.arena.view(shape, dtype, self.shared_used)
        self.shared_used += up(view.nbytes, 64) + GUARD
        assert self.shared_used <= self.arena.bytes.nbytes
        return view

    def place_shared(self, field: str, x: np.ndarray) -> np.ndarray:
        """Place what all row blocks share."""
        view = self.shared(field, x.shape, x.dtype.type)
        view[...] = x
        return view

    def output_shared(self, field: str, shape: tuple[int, ...], dtype: type) -> None:
        """Declare memory shared by all row blocks that the kernel writes."""
        self.outputs[field] = self.shared(field, shape, dtype)

    def constant(self, field: str, x: np.ndarray | None) -> None:
        """Place a packed weight or a constant; None: absent."""
        self.args[field] = 0 if x is None else self.memory(x).address

    def memory(self, x: np.ndarray) -> Memory:
        """Memory outside of the arena."""
        self.memories.append(Memory.of(x))
        return self.memories[-1]

    def written(self, name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """Declare memory outside of the arena that the kernel writes."""
        made = self.memory(np.full(shape, 0, dtype))
        made.bytes[:] = POISON
        self.outputs[name] = made.view(shape, dtype)
        return self.outputs[name]

    @property
    def tasks(self) -> int:
        """How many tasks the operator has."""
        tiles = RECORDS[self.kernel].tasks(self.args)
        if self.kernel in ("attend", "merge"):
            begins = self.step.item_begin if self.kernel == "attend" else self.step.merge_begin
            begin = begins[self.args["window_class"]]
            return tiles * int(begin[self.block + 1] - begin[self.block])
        if self.kernel == "expand_latent":
            return tiles * (int(self.step.positions.max()) // contract.SPLIT + 1)
        return self.rows if self.kernel == "sample" else tiles

    def run(self, isa: str | None) -> dict[str, np.ndarray]:
        """The outputs of all tasks, by the kernels of an ISA or, for None, the reference. Memory is left as it was."""
        before = [memory.all.copy() for memory in self.memories]
        views = {name: view.copy() for name, view in self.outputs.items()}
        if isa is None:
            for index in range(self.tasks):
                reference.KERNELS[self.kernel](self.task(index))
        else:
            assert self.run_native(isa) == 0
        results = {name: view.copy() for name, view in self.outputs.items()}
        for name, view in self.outputs.items():
            view[...] = views[name]
        for memory, old in zip(self.memories, before, strict=True):
            assert np.array_equal(memory.all, old), f"{self.kernel} wrote outside of its outputs"
        return results

    def task(self, index: int) -> reference.Task:
        """A task as the reference takes it."""
        section = self.arena.bytes[self.block * self.section_bytes :][: self.section_bytes]
        return reference.Task(
            self.args, self.step, self.arena.bytes, section, self.section_bytes, self.row_block, self.block,
            self.block * self.row_block, self.rows, index,
        )  # fmt: skip

    def run_native(self, isa: str) -> int:
        """Run all tasks by the kernels of an ISA, with as much scratch as the contract says; their error code."""
        assert self.args.keys() == contract.FIELDS[self.kernel].keys()
        args = contract.pack(self.kernel, **self.args)
        scratch = Memory(RECORDS[self.kernel].scratch_bytes(self.args, self.row_block))
        step = self.record()
        error = importlib.import_module(f"ellm.kernels._{isa}").run(
            self.kernel, args.ctypes.data, step.ctypes.data, self.arena.address, scratch.address,
            section_bytes=self.section_bytes, row_block=self.row_block, block=self.block, rows=self.rows, index=0,
            count=self.tasks,
        )  # fmt: skip
        scratch.bytes[:] = POISON
        assert (scratch.all == POISON).all(), f"{self.kernel} wrote outside of its scratch"
        return error

    def record(self) -> np.ndarray:
        """The C struct `ellm_step`."""
        record = np.zeros(1, contract.STEP)
        record["number"] = 1
        for field in fields(self.step):
            value = getattr(self.step, field.name)
            if isinstance(value, list):
                for window_class, array in enumerate(value):
                    record[field.name][0, window_class] = array.ctypes.data
            elif value is not None:
                record[field.name] = value.ctypes.data if isinstance(value, np.ndarray) else value
        return record


def pack_weight(w: np.ndarray) -> np.ndarray:
    """f32 [n, k] as a packed weight, bf16 [n_tiles, k_tiles, 16, 16, 2]."""
    n_tiles, k_tiles = -(-w.shape[0] // 16), -(-w.shape[1] // 32)
    padded = np.zeros((16 * n_tiles, 32 * k_tiles), np.float32)
    padded[: w.shape[0], : w.shape[1]] = w
    return to_bf16(padded.reshape(n_tiles, 16, k_tiles, 16, 2).transpose(0, 2, 3, 1, 4))


def pack_keys(k: np.ndarray) -> np.ndarray:
    """f32 [positions, head_dim] as the keys of a head: a weight with n = position."""
    return pack_weight(k)


def pack_values(v: np.ndarray) -> np.ndarray:
    """f32 [positions, head_dim] as the values of a head: bf16 [position tile, d tile, 16, 16, 2], k = position."""
    return pack_weight(v.T).transpose(1, 0, 2, 3, 4)


def up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def bf16_ulps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many bf16 numbers two arrays of bf16 are apart."""
    ordered = [np.where(x < 0x8000, x, 0x8000 - x.astype(np.int64)) for x in (a.astype(np.int64), b.astype(np.int64))]
    return np.abs(ordered[0] - ordered[1])
