"""The NumPy references of the kernels that multiply by a packed weight; reference.py says how they are meant."""

from __future__ import annotations

import numpy as np

from ellm.kernels import layout, reference_integer
from ellm.kernels.contract import EXPERT_ROWS, TILE_K, TILE_N
from ellm.kernels.formats import NUMBERED, PLAIN
from ellm.kernels.layout import from_bf16, memory, to_bf16
from ellm.kernels.reference_panel import Panel, Rounded
from ellm.kernels.reference_task import Task, append_keys, append_values, norm, rotate, silu, write, write_groups


def linear(task: Task) -> None:
    """out = bf16(norm(x)) . W^T (+ bias) (+ residual), f32 or bf16 [rows, n]."""
    y, begin, end = _product(task, task.n)
    if task.residual >= 0:
        y = y + task.buffer(task.residual, task.n, stride=task.out_stride)[:, begin:end]
    write(task, y, task.n, begin)


def logits(task: Task) -> None:
    """step.logits[row + r] = bf16(norm(x[r])) . W^T (+ bias), f32 [logit_rows, n]."""
    y, begin, end = _product(task, task.n)
    task.step.logits[task.row : task.row + task.rows, begin:end] = y


def gate_up(task: Task) -> None:
    """out = silu(gate) * up, f32 or bf16 [rows, n] (Shazeer, 2020); W's tiles 2i are gate's tiles i, 2i + 1 up's."""
    y, begin, end = _product(task, 2 * TILE_N * -(-task.n // TILE_N))
    pairs = y.reshape(task.rows, -1, 2, TILE_N)
    gate, up = (pairs[:, :, i].reshape(task.rows, -1) for i in (0, 1))
    begin, end = begin // 2, min(task.n, end // 2)
    write(task, (silu(gate) * up)[:, : end - begin], task.n, begin)


def qkv(task: Task) -> None:
    """Heads of bf16(norm(x)) . W^T (+ bias); q and k heads then normed and rotated; q to `q`, k and v to the KV ranges.

    Head h is columns [TILE_N * head_tiles * h, + head_dim) of W, the heads being those of q, then of k, then of v.
    q: bf16 [rows, heads, q_width], zero from head_dim on.
    """
    y, begin, _ = _product(task, TILE_N * task.n_tiles)
    y = y.reshape(task.rows, -1, TILE_N * task.head_tiles)[:, :, : task.head_dim]
    q = task.buffer(task.q, task.heads, task.q_width, dtype=np.uint16)
    for i in range(y.shape[1]):
        head = begin // (TILE_N * task.head_tiles) + i
        x = y[:, i]
        if head < task.heads + task.kv_heads:
            gain = task.q_norm if head < task.heads else task.k_norm
            if gain:
                x = norm(x, memory(gain, (task.head_dim,), np.float32), task.head_eps)
            if task.angles >= 0:
                x = rotate(x[:, None], task.buffer(task.angles, task.rotary // 2, 2))[:, 0]
        if head < task.heads:
            q[:, head, : task.head_dim] = to_bf16(layout.turned(x) if task.int8 else x)
            q[:, head, task.head_dim :] = 0
        elif head < task.heads + task.kv_heads:
            append_keys(task, head - task.heads, x)
        else:
            append_values(task, head - task.heads - task.kv_heads, x)


def head_linear(task: Task) -> None:
    """out[r, h] = bf16(x[r, h]) . W[h]^T, f32 or bf16 [rows, heads, n]."""
    head, column_task = divmod(task.index, -(-task.n_tiles // task.task_tiles))
    dtype = np.dtype(np.uint16 if task.x_bf16 else np.float32)
    x = task.buffer(task.x + head * task.x_group_stride * dtype.itemsize, task.k, dtype=dtype, stride=task.x_stride)
    weight = task.weight + head * task.bank_stride
    y, begin, _ = _multiply(task, _rounded(task, x), column_task, task.n, weight, 0)
    write_groups(task, y[:, None], task.heads, task.n, head, begin)


def expert_gate_up(task: Task) -> None:
    """gate_up, or gpt-oss's clamped form of it, of expert `block`; bf16 rows of a panel or f32 [routed, n]."""
    rows, column_task = _routed(task)
    y, begin, end = _multiply(task, _panel(task), column_task, 2 * TILE_N * -(-task.n // TILE_N), *_bank(task))
    y = y.reshape(len(y), -1, 2, TILE_N)
    gate, up = (y[:, :, i].reshape(len(y), -1) for i in (0, 1))
    begin, end = begin // 2, min(task.n, end // 2)
    y = (silu(gate) * up if task.activation == 0 else _clamped(task, gate, up))[:, : end - begin]
    if task.out_bf16:
        Panel(task.arena, task.out, -(-task.n // TILE_K), PLAIN.number, 0).write(rows, y, begin)
    else:
        task.shared(task.out, rows.stop, task.n)[rows, begin:end] = y


def expert_down(task: Task) -> None:
    """linear of expert `block` on its routed rows, f32 [routed, n]."""
    rows, column_task = _routed(task)
    if task.activations:
        x = _rounded(task, task.shared(task.routed, rows.stop, task.k, stride=task.x_stride)[rows])
    else:
        x = _panel(task)
    y, begin, end = _multiply(task, x, column_task, task.n, *_bank(task))
    task.shared(task.out, rows.stop, task.n)[rows, begin:end] = y


def _routed(task: Task) -> tuple[slice, int]:
    """The routed positions of the task, and which columns are its."""
    row_tile, column_task = divmod(task.index, -(-task.n_tiles // task.task_tiles))
    begin, end = task.shared(task.begin, task.block + 2, dtype=np.int32)[task.block :].tolist()
    first = begin + row_tile * EXPERT_ROWS
    return slice(first, min(end, first + EXPERT_ROWS)), column_task


def _panel(task: Task) -> Rounded:
    """The task's routed rows."""
    panel = Panel(task.arena, task.routed, task.k_tiles, task.format, task.activations)
    return panel.read(_routed(task)[0], task.k)


def _bank(task: Task) -> tuple[int, int]:
    """Addresses of the expert's weight and bias."""
    return task.weight + task.block * task.bank_stride, task.bias and task.bias + task.block * task.bias_stride


def _clamped(task: Task, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """gpt-oss: (u + 1) * g * sigmoid(alpha * g) with g = min(gate, limit) and u = clamp(up, -limit, limit)."""
    g = np.minimum(gate, np.float32(task.limit)).astype(np.float64)
    u = np.clip(up, np.float32(-task.limit), np.float32(task.limit)).astype(np.float64)
    return ((u + 1) * (g / (1 + np.exp(-task.alpha * g)))).astype(np.float32)


def _product(task: Task, columns: int) -> tuple[np.ndarray, int, int]:
    """_multiply for a kernel that has one weight and the rows of its block."""
    x = task.buffer(task.x, task.k, dtype=np.uint16 if task.x_bf16 else np.float32, stride=task.x_stride)
    return _multiply(task, _rounded(task, x), task.index, columns, task.weight, task.bias)


def _rounded(task: Task, x: np.ndarray) -> Rounded:
    """norm(x), rounded to bf16, or to whole numbers as `activations` says."""
    if task.norm:
        x = norm(x, memory(task.norm, (task.k,), np.float32), task.eps)
    if not task.activations:
        return from_bf16(x if task.x_bf16 else to_bf16(x))
    padded = np.zeros((len(x), TILE_K * task.k_tiles), np.float32)
    padded[:, : task.k] = from_bf16(x) if task.x_bf16 else x
    return reference_integer.whole(padded, task.activations, NUMBERED[task.format])


def _multiply(
    task: Task, a: Rounded, column_task: int, columns: int, weight: int, bias: int
) -> tuple[np.ndarray, int, int]:
    """f32 a . W^T + bias for columns [begin, end) of `columns`, those of the column task."""
    format = NUMBERED[task.format]
    begin = TILE_N * column_task * task.task_tiles
    end = min(columns, begin + TILE_N * task.task_tiles)
    if isinstance(a, tuple):
        numbers = format.integers(weight, task.n_tiles, task.k_tiles)
        y = reference_integer.multiply(*a, format, numbers)[:, begin:end]
    else:
        wide = format.weight(weight, task.n_tiles, task.k_tiles)[begin:end, : task.k].astype(np.float64)
        y = a.astype(np.float64) @ wide.T
    if bias:
        y = y + memory(bias, (TILE_N * task.n_tiles,), np.float32)[begin:end]
    return y.astype(np.float32), begin, end
