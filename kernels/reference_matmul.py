"""The NumPy twins of the kernels that multiply by a packed weight; reference.py says how they are meant."""

from __future__ import annotations

import numpy as np

from ellm.kernels import layout
from ellm.kernels.layout import from_bf16, memory, to_bf16
from ellm.kernels.reference_task import Task, append_keys, append_values, norm, rotate, silu, write


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
    """out = silu(gate) * up, bf16 [rows, n]; W's column tile 2i is gate's tile i, 2i + 1 is up's (Shazeer, 2020)."""
    y, begin, end = _product(task, 2 * 16 * -(-task.n // 16))
    pairs = y.reshape(task.rows, -1, 2, 16)
    gate, up = (pairs[:, :, i].reshape(task.rows, -1) for i in (0, 1))
    begin, end = begin // 2, min(task.n, end // 2)
    out = task.buffer(task.out, task.out_stride, dtype=np.uint16)
    out[:, begin:end] = to_bf16(silu(gate) * up)[:, : end - begin]
    if end == task.n:
        out[:, end:] = 0


def qkv(task: Task) -> None:
    """Heads of bf16(norm(x)) . W^T (+ bias); q and k heads then normed and rotated; q to `q`, k and v to the KV ranges.

    Head h is columns [16 * head_tiles * h, + head_dim) of W, the heads being those of q, then of k, then of v.
    q: bf16 [rows, heads, q_width], zero from head_dim on.
    """
    y, begin, _ = _product(task, 16 * task.n_tiles)
    y = y.reshape(task.rows, -1, 16 * task.head_tiles)[:, :, : task.head_dim]
    q = task.buffer(task.q, task.heads, task.q_width, dtype=np.uint16)
    for i in range(y.shape[1]):
        head = begin // (16 * task.head_tiles) + i
        x = y[:, i]
        if head < task.heads + task.kv_heads:
            norm = task.q_norm if head < task.heads else task.k_norm
            if norm:
                x = norm(x, memory(norm, (task.head_dim,), np.float32), task.head_eps)
            if task.angles >= 0:
                x = rotate(x[:, None], task.buffer(task.angles, task.rotary // 2, 2))[:, 0]
        if head < task.heads:
            q[:, head, : task.head_dim] = to_bf16(x)
            q[:, head, task.head_dim :] = 0
        elif head < task.heads + task.kv_heads:
            append_keys(task, head - task.heads, x)
        else:
            append_values(task, head - task.heads - task.kv_heads, x)


def _product(task: Task, columns: int) -> tuple[np.ndarray, int, int]:
    """f32 bf16(norm(x)) . W^T + bias for the task's columns [begin, end) of `columns`."""
    x = task.buffer(task.x, task.k, dtype=np.uint16 if task.x_bf16 else np.float32, stride=task.x_stride)
    if task.norm:
        x = norm(x, memory(task.norm, (task.k,), np.float32), task.eps)
    a = from_bf16(x if task.x_bf16 else to_bf16(x)).astype(np.float64)
    begin = 16 * task.index * task.task_tiles
    end = min(columns, begin + 16 * task.task_tiles)
    y = a @ layout.weight(task.weight, task.n_tiles, task.k_tiles)[begin:end, : task.k].T.astype(np.float64)
    if task.bias:
        y = y + memory(task.bias, (16 * task.n_tiles,), np.float32)[begin:end]
    return y.astype(np.float32), begin, end
