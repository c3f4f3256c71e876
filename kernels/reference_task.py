"""What the NumPy references work on, and the equations that several of them share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ellm.kernels import layout
from ellm.kernels.contract import SPLIT
from ellm.kernels.layout import activation, to_bf16


@dataclass
class StepView:
    """`ellm_step` as arrays; a list has one array per window class."""

    rows: int
    logit_rows: int
    sample_rows: int
    tokens: np.ndarray  # int32 [rows]
    positions: np.ndarray  # int32 [rows]
    slots: np.ndarray  # int32 [rows]
    ranges: np.ndarray  # uint64 [slots]: addresses
    blocks: np.ndarray  # uint64 [slots, context_blocks]: addresses
    context_blocks: int
    logit_row: np.ndarray  # int32 [logit_rows]
    logits: np.ndarray  # float32 [logit_rows, vocab]
    sampling: np.ndarray | None  # SAMPLING [logit_rows]
    sampled: np.ndarray | None  # int32 [logit_rows]
    logprob: np.ndarray | None  # float32 [logit_rows]
    partials: np.ndarray  # float32, flat
    items: list[np.ndarray]  # ATTEND_ITEM
    item_begin: list[np.ndarray]  # int32 [blocks + 1]
    merges: list[np.ndarray]  # MERGE_ITEM
    merge_begin: list[np.ndarray]  # int32 [blocks + 1]
    input_rows: np.ndarray | None = None  # float32 [rows, width]


@dataclass
class Task:
    """`ellm_task`. Addresses in args and step are real: packed weights and KV ranges are read where they are."""

    args: dict[str, Any]
    step: StepView
    arena: np.ndarray  # uint8 [blocks * section_bytes + shared_bytes]
    section: np.ndarray  # uint8 [section_bytes], a view of the arena
    section_bytes: int
    row_block: int
    block: int
    row: int
    rows: int
    index: int

    def __getattr__(self, name: str) -> Any:
        """An argument of the operator."""
        try:
            return self.__dict__["args"][name]
        except KeyError:
            raise AttributeError(f"no argument is called {name}") from None

    def cache_block(self, slot: int, block: int, stride: int = 0) -> int:
        """What the offsets of a sequence's keys and values in a block count from; with a stride, in its own range."""
        return int(self.step.ranges[slot]) + block * stride if stride else int(self.step.blocks[slot, block])

    def buffer(self, offset: int, *shape: int, dtype: Any = np.float32, stride: int | None = None) -> np.ndarray:
        """The activation at `offset`, [rows, *shape]; `stride` is its elements from row to row if they are more."""
        return activation(self.section, offset, (self.rows, *shape), np.dtype(dtype), stride)

    def grouped(self, name: str, count: int, width: int) -> np.ndarray:
        """The groups of columns of `x`, f32, or `out`, which is f32 or bf16, by its strides: [rows, count, width]."""
        dtype = np.dtype(np.uint16 if name == "out" and self.out_bf16 else np.float32)
        apart = (self.args[f"{name}_stride"], self.args[f"{name}_group_stride"], 1)
        strides = [dtype.itemsize * elements for elements in apart]
        return np.ndarray((self.rows, count, width), dtype, self.section.data, self.args[name], strides)

    def shared(self, offset: int, *shape: int, dtype: Any = np.float32, stride: int | None = None) -> np.ndarray:
        """What all row blocks share at `offset` of the arena, [*shape]; `stride` as of buffer."""
        return activation(self.arena, offset, shape, np.dtype(dtype), stride)


def norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang and Sennrich, 2019)."""
    wide = x.astype(np.float64)
    return (wide / np.sqrt((wide**2).mean(-1, keepdims=True) + eps) * weight).astype(np.float32)


def silu(x: np.ndarray) -> np.ndarray:
    """x * sigmoid(x)."""
    with np.errstate(over="ignore"):
        return (x / (1 + np.exp(-x.astype(np.float64)))).astype(np.float32)


def rotate(x: np.ndarray, cos_sin: np.ndarray, interleaved: bool = False) -> np.ndarray:
    """Pairs (i, i + rotary / 2) or (2 i, 2 i + 1) of x, [rows, heads, head_dim], by cos_sin, [rows, rotary / 2, 2]."""
    half = cos_sin.shape[1]
    cos, sin = cos_sin[:, None, :, 0], cos_sin[:, None, :, 1]
    one, other = (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if interleaved else (slice(half), slice(half, 2 * half))
    out = x.copy()
    out[:, :, one] = x[:, :, one] * cos - x[:, :, other] * sin
    out[:, :, other] = x[:, :, other] * cos + x[:, :, one] * sin
    return out


def write(task: Task, y: np.ndarray, columns: int, begin: int = 0) -> None:
    """Columns from `begin` on of rows of `out`, f32 or bf16; the last ones take the pad of a bf16 row with them."""
    end = begin + y.shape[1]
    out = task.buffer(task.out, task.out_stride, dtype=np.uint16 if task.out_bf16 else np.float32)
    out[:, begin:end] = to_bf16(y) if task.out_bf16 else y
    if task.out_bf16 and end == columns:
        out[:, end:] = 0


def write_groups(
    task: Task, y: np.ndarray, count: int, width: int, first: int = 0, begin: int = 0, rows: slice = slice(None)
) -> None:
    """Columns from `begin` on of the groups from `first` on of `out`; the last ones take the pad of a row with them."""
    out = task.grouped("out", count, width)
    groups, end = first + y.shape[1], begin + y.shape[2]
    out[rows, first:groups, begin:end] = to_bf16(y) if task.out_bf16 else y
    if (groups, end) == (count, width):
        last = (count - 1) * task.out_group_stride + width
        task.buffer(task.out, last + task.pad, dtype=out.dtype, stride=task.out_stride)[rows, last:] = 0


def append_keys(task: Task, head: int, x: np.ndarray) -> None:
    """Keys x, [rows, head_dim], of a KV head to the blocks of the rows' sequences."""
    for block, position, row in _places(task, x):
        write = layout.write_keys_int8 if task.int8 else layout.write_keys
        write(block + task.keys + head * task.key_stride, np.array([position]), row[None])


def append_values(task: Task, head: int, x: np.ndarray) -> None:
    """As append_keys, for values, [rows, value_dim]."""
    for block, position, row in _places(task, x):
        write = layout.write_values_int8 if task.int8 else layout.write_values
        write(block + task.values + head * task.value_stride, np.array([position]), row[None])


def _places(task: Task, x: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
    """Block of the sequence, position in it and x of each row of the row block."""
    rows = slice(task.row, task.row + task.rows)
    places = zip(task.step.slots[rows].tolist(), task.step.positions[rows].tolist(), x, strict=True)
    return [(task.cache_block(slot, at // SPLIT), at % SPLIT, row) for slot, at, row in places]
