"""The NumPy references of the kernels that send rows to experts and back; reference.py says how they are meant."""

from __future__ import annotations

import numpy as np

from ellm.kernels import layout
from ellm.kernels.contract import PIECE
from ellm.kernels.layout import memory
from ellm.kernels.reference_panel import Panel
from ellm.kernels.reference_task import Task


def route(task: Task) -> None:
    """ids and weights, [rows, top_k], of the top_k experts of each row by score (+ bias), ties to the lower number.

    Only experts of the keep_groups best groups of experts are eligible, the others count as masked_value; a group's
    score is the sum of its group_top best (DeepSeek-AI, 2024, DeepSeek-V2 section 2.1.2, DeepSeek-V3 section 2.1.2).
    """
    scores = _scores(task.buffer(task.scores, task.experts), task.score)
    choice = scores + memory(task.bias, (task.experts,), np.float32) if task.bias else scores
    choice = np.where(np.isnan(choice), -np.inf, choice)
    if task.groups:
        choice = _limit_groups(task, choice)
    ids = np.argsort(-choice, axis=-1, kind="stable")[:, : task.top_k]
    weights = np.take_along_axis(scores, ids, -1)
    if task.normalize == 1:
        weights = weights / (weights.sum(-1, keepdims=True) + np.float32(1e-20 if task.score == 2 else 0))
    elif task.normalize == 2:
        weights = _scores(weights, 1)
    rows = slice(task.row, task.row + task.rows)
    task.shared(task.ids, task.row + task.rows, task.top_k, dtype=np.int32)[rows] = ids
    task.shared(task.weights, task.row + task.rows, task.top_k)[rows] = weights * np.float32(task.scale)


def dispatch(task: Task) -> None:
    """The step's routed rows sorted by expert, then row, then choice, and which experts have any.

    Expert e has positions [begin[e], begin[e + 1]), rows_of[e] of them; list is the number of experts that have rows,
    then these.
    """
    shape, routed = (task.step.rows, task.top_k), task.step.rows * task.top_k
    ids = task.shared(task.ids, routed, dtype=np.int32)
    order = np.argsort(ids, kind="stable")
    position = np.empty(routed, np.int32)
    position[order] = np.arange(routed)
    task.shared(task.position, *shape, dtype=np.int32)[:] = position.reshape(shape)
    counts = np.bincount(ids, minlength=task.experts)
    task.shared(task.begin, task.experts + 1, dtype=np.int32)[:] = np.concatenate(([0], np.cumsum(counts)))
    task.shared(task.rows_of, task.experts, dtype=np.int32)[:] = counts
    found = np.flatnonzero(counts)
    task.shared(task.list, 1 + len(found), dtype=np.int32)[:] = [len(found), *found]


def scatter(task: Task) -> None:
    """Each step row of the piece, rounded to bf16 or whole numbers, at each of its routed positions."""
    panel = Panel(task.arena, task.out, task.k_tiles, task.format, task.activations)
    dtype, end = np.dtype(np.uint16 if task.x_bf16 else np.float32), min(task.step.rows, (task.index + 1) * PIECE)
    position = task.shared(task.position, end, task.top_k, dtype=np.int32)
    for row in range(task.index * PIECE, end):
        block, within = divmod(row, task.row_block)
        section = task.arena[block * task.section_bytes :]
        x = layout.activation(section, task.x, (within + 1, task.k), dtype, task.x_stride)[within:]
        for place in position[row].tolist():
            panel.write(slice(place, place + 1), layout.from_bf16(x) if task.x_bf16 else x)


def combine(task: Task) -> None:
    """out = residual + sum over j, ascending, of weights[:, j] * y[position[:, j]], f32, for the task's columns."""
    columns = slice(task.index * task.task_columns, (task.index + 1) * task.task_columns)
    rows, end = slice(task.row, task.row + task.rows), task.row + task.rows
    weights = task.shared(task.weights, end, task.top_k)[rows]
    position = task.shared(task.position, end, task.top_k, dtype=np.int32)[rows]
    y = task.shared(task.y, int(position.max()) + 1, task.n)[:, columns]
    total = np.zeros((task.rows, y.shape[1]), np.float32)
    if task.residual >= 0:
        total += task.buffer(task.residual, task.n)[:, columns]
    for j in range(task.top_k):
        total += weights[:, j, None] * y[position[:, j]]
    task.buffer(task.out, task.n)[:, columns] = total


def _scores(x: np.ndarray, score: int) -> np.ndarray:
    """f32 x as it is, its softmax or its sigmoid."""
    wide = x.astype(np.float64)
    if score == 1:
        wide = np.exp(wide - wide.max(-1, keepdims=True))
        wide /= wide.sum(-1, keepdims=True)
    elif score == 2:
        wide = 1 / (1 + np.exp(-wide))
    return wide.astype(np.float32)


def _limit_groups(task: Task, choice: np.ndarray) -> np.ndarray:
    groups = choice.reshape(task.rows, task.groups, -1)
    best = np.sort(groups, axis=-1)[:, :, ::-1][:, :, : task.group_top].sum(-1)
    kept = np.argsort(-best, axis=-1, kind="stable")[:, : task.keep_groups]
    eligible = np.zeros((task.rows, task.groups), bool)
    np.put_along_axis(eligible, kept, True, -1)
    return np.where(eligible[:, :, None], groups, np.float32(task.masked_value)).reshape(choice.shape)
