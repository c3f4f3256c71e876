"""The NumPy reference of every kernel: the equations, as plainly as they can be written.

Each function does what the kernel of the same name does for one task of one operator, on the same memory. Sums are
exact (float64) where the kernels add in float32; what the kernels round to bf16 is rounded here too. Argument names and
layouts are those of task.h.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from ellm.kernels import layout
from ellm.kernels.contract import LEAF, SPAN, SPLIT, TILE_K, TILE_N, TOKEN_NUMBER
from ellm.kernels.formats import NUMBERED
from ellm.kernels.layout import activation, from_bf16, memory, to_bf16
from ellm.kernels.reference_matmul import expert_down, expert_gate_up, gate_up, head_linear, linear, logits, qkv
from ellm.kernels.reference_routing import combine, dispatch, route, scatter
from ellm.kernels.reference_task import StepView, Task, append_keys, append_values, norm, rotate, silu, write_groups

__all__ = ["KERNELS", "StepView", "Task"]


def embed(task: Task) -> None:
    """out[r] = table[:, tokens[r]] * scale, f32 [rows, width]. IndexError: a token is outside [0, vocab)."""
    tokens = task.step.tokens[task.row : task.row + task.rows]
    if tokens.min() < 0 or tokens.max() >= task.vocab:
        raise IndexError(f"a token is outside [0, {task.vocab}): {tokens.tolist()}")
    table = NUMBERED[task.format].weight(task.table, -(-task.vocab // TILE_N), task.k_tiles)
    task.buffer(task.out, task.width)[:] = table[tokens, : task.width] * np.float32(task.scale)


def input_rows(task: Task) -> None:
    """out[r] = input_rows[row + r], f32 [rows, width]."""
    assert task.step.input_rows is not None
    task.buffer(task.out, task.width)[:] = task.step.input_rows[task.row : task.row + task.rows]


def angles(task: Task) -> None:
    """out[r, i] = (cos a, sin a) * factor with a = f32(position) * inv_freq[i], f32 [rows, half, 2].

    The f32 angle is that of Hugging Face's rotary embedding; factor is YaRN's (Peng et al., 2023, section 3.4).
    """
    positions = task.step.positions[task.row : task.row + task.rows].astype(np.float32)
    angle = (positions[:, None] * memory(task.inv_freq, (task.half,), np.float32)).astype(np.float64)
    out = task.buffer(task.out, task.half, 2)
    out[:, :, 0] = np.cos(angle).astype(np.float32) * np.float32(task.factor)
    out[:, :, 1] = np.sin(angle).astype(np.float32) * np.float32(task.factor)


def gather(task: Task) -> None:
    """out[r] = x[logit_row[row + r]], f32 [rows, width]; x is in the section of that row's own block."""
    out = task.buffer(task.out, task.width)
    for r in range(task.rows):
        block, row = divmod(int(task.step.logit_row[task.row + r]), task.row_block)
        section = task.arena[block * task.section_bytes :]
        out[r] = activation(section, task.x, (row + 1, task.width), np.dtype(np.float32))[row]


def rms_norm(task: Task) -> None:
    """out = x / sqrt(mean(x^2) + eps) * weight over each of [rows, groups] runs of width (Zhang and Sennrich, 2019)."""
    rows = slice(task.rows * task.index // task.tasks, task.rows * (task.index + 1) // task.tasks)
    x = task.grouped("x", task.groups, task.width)[rows]
    y = norm(x, memory(task.weight, (task.width,), np.float32), task.eps)
    write_groups(task, y, task.groups, task.width, rows=rows)


def rope(task: Task) -> None:
    """Pairs of each head's dims turned by `angles`, f32 or bf16 [rows, heads, head_dim] (Su et al., 2021)."""
    first = task.index * task.task_heads
    x = task.grouped("x", task.heads, task.head_dim)[:, first : first + task.task_heads]
    cos_sin = task.buffer(task.angles, task.rotary // 2, 2)
    write_groups(task, rotate(x, cos_sin, bool(task.interleaved)), task.heads, task.head_dim, first)


def append(task: Task) -> None:
    """K[position] = bf16(k) and, unless values_in_keys, V[position] = bf16(v) of KV head `index`.

    k: f32 [rows, kv_heads, head_dim], v: f32 [rows, kv_heads, value_dim].
    """
    append_keys(task, task.index, task.buffer(task.k, task.kv_heads, task.head_dim)[:, task.index])
    if not task.values_in_keys:
        append_values(task, task.index, task.buffer(task.v, task.kv_heads, task.value_dim)[:, task.index])


def expand_latent(task: Task) -> None:
    """K[s] = bf16(c[s] . W_K^T) | r[s] and V[s] = bf16(c[s] . W_V^T) of head index % heads, s in split index / heads.

    c and r are the latent and the rotary dims of the cached keys of every sequence of the step, up to its last row.
    """
    split, head = divmod(task.index, task.heads)
    step, k_tiles = task.step, -(-task.latent // TILE_K)
    to_keys, to_values = (
        NUMBERED[format].weight(address + head * stride, -(-n // TILE_N), k_tiles)[:n, : task.latent].astype(np.float64)
        for address, stride, n, format in (
            (task.to_keys, task.to_keys_stride, task.key_dim, task.to_keys_format),
            (task.to_values, task.to_values_stride, task.value_dim, task.to_values_format),
        )
    )
    lengths = {int(slot): int(position) + 1 for slot, position in zip(step.slots, step.positions, strict=True)}
    for slot, length in lengths.items():
        positions = np.arange(min(length - split * SPLIT, SPLIT))
        if len(positions):
            at = task.cache_block(slot, split) + task.cached
            cached = layout.read_keys(at, len(positions), task.latent + task.rotary)
            block = task.cache_block(slot, split, task.block_stride)
            latent = cached[:, : task.latent].astype(np.float64)
            keys = np.concatenate([latent @ to_keys.T, cached[:, task.latent :]], axis=1)
            layout.write_keys(block + task.keys + head * task.key_stride, positions, keys)
            layout.write_values(block + task.values + head * task.value_stride, positions, latent @ to_values.T)


def attend(task: Task) -> None:
    """out = softmax(scale * q . K^T) V per (row, head), bf16 [rows, heads * value_dim], or its partials.

    A row sees keys position - window + 1 .. position, or 0 .. position if window is 0; head h those of KV head
    h // (heads / kv_heads). Online softmax over leaves, which are merged span by span: Milakov and Gimelshein, 2018. V
    is the first dims of K if values_in_keys.
    """
    index, kv_head = divmod(task.index, task.kv_heads)
    item = task.step.items[task.window_class][task.step.item_begin[task.window_class][task.block] + index]
    shared = task.heads // task.kv_heads
    keys, values, weights = _cached(task, int(item["slot"]), kv_head, int(item["position"] + item["rows"]))
    for r in range(item["rows"]):
        position = int(item["position"]) + r
        for head in _part(shared, item):
            head += kv_head * shared
            q = _query(task, int(item["row"]) - task.row + r, head)
            spans: dict[int, list[np.ndarray]] = {}
            for first, last in leaves(int(item["key_begin"]), int(item["key_end"])):
                begin = max(first, position - task.window + 1 if task.window else 0)
                seen = slice(begin, max(begin, min(last, position + 1)))
                part = _attend_leaf(q, keys[seen], values[seen], weights[seen], task.scale, bool(task.int8))
                spans.setdefault(first // SPAN, []).append(part)
            if item["partial"] < 0:
                _write_head(task, int(item["row"]) + r, head, [_merged(parts) for parts in spans.values()])
                continue
            (parts,) = spans.values() if item["folded"] else ([part for parts in spans.values() for part in parts],)
            stored = _partials(task, item, r)[head, int(item["unit"]) :]
            for i, part in enumerate([_merged(parts)] if item["folded"] else parts):
                stored[i] = part


def merge(task: Task) -> None:
    """The output of attend from the partials of a merge item's rows, bf16 [rows, heads * value_dim]."""
    item = task.step.merges[task.window_class][task.step.merge_begin[task.window_class][task.block] + task.index]
    first, size = int(item["first_units"]), int(item["span_units"])
    ends = [0, first, *range(first + size, int(item["units"]) + size, size)]
    for r in range(item["rows"]):
        partials = _partials(task, item, r)
        for head in _part(task.heads, item):
            spans = [_merged(list(partials[head, begin:end])) for begin, end in pairwise(ends)]
            _write_head(task, int(item["row"]) + r, head, spans)


def leaves(begin: int, end: int) -> list[tuple[int, int]]:
    """Leaves [first, last) of the keys from where one begins to where one ends."""
    bounds = [key for key in range(begin, end) if key % (LEAF if key < SPAN else SPLIT) == 0]
    return list(pairwise([*bounds, end]))


def copy(task: Task) -> None:
    """out[r, g] = x[r, g], [rows, groups, width]; f32 to f32 or bf16."""
    first = task.index * task.task_groups
    x = task.grouped("x", task.groups, task.width)[:, first : first + task.task_groups]
    write_groups(task, x, task.groups, task.width, first)


def swiglu(task: Task) -> None:
    """out = silu(gate) * up, f32 [rows, width] (Shazeer, 2020, equation 5)."""
    gate, up = task.buffer(task.gate, task.width), task.buffer(task.up, task.width)
    task.buffer(task.out, task.width)[:] = silu(gate) * up


def add(task: Task) -> None:
    """out = a + b, f32 [rows, width]."""
    task.buffer(task.out, task.width)[:] = task.buffer(task.a, task.width) + task.buffer(task.b, task.width)


def sample(task: Task) -> None:
    """The next token of logit row `row + index` to step.sampled, log softmax(logits) of it to step.logprob.

    The same of the most likely tokens to `top`.
    """
    row = task.row + task.index
    how, step = task.step.sampling[row], task.step  # type: ignore[index]
    assert step.sampled is not None
    x = np.where(np.isnan(step.logits[row]), -np.inf, step.logits[row]).astype(np.float64)  # a NaN is never chosen
    token = int(memory(int(how["given"]), (1,), np.int32)[0]) if how["given"] else sample_token(x, how)
    step.sampled[row] = token
    logprobs = x - x.max() - np.log(np.exp(x - x.max()).sum())
    if step.logprob is not None:
        step.logprob[row] = logprobs[token]
    if how["top_len"]:
        top = memory(int(how["top"]), (int(how["top_len"]),), TOKEN_NUMBER)
        top["token"] = np.lexsort((np.arange(len(x)), -x))[: len(top)]
        top["number"] = logprobs[top["token"]]


def sample_token(x: np.ndarray, how: np.void) -> int:
    """Choose a token by its logit x, [vocab], as a SAMPLING record says.

    Mask, bias, penalties, temperature, min_p, top_k, top_p (Holtzman et al., 2019), in vLLM's order.
    """
    w = adjusted(x, how)
    if how["temperature"] < 1e-5 or not np.isfinite(w.max()):
        return int(np.argmax(w))
    order, p = candidates(w, how)
    passed = np.cumsum(p) > uniform(int(how["seed"]), int(how["counter"])) * p.sum()
    return int(order[np.argmax(passed) if passed.any() else len(p) - 1])


def adjusted(x: np.ndarray, how: np.void) -> np.ndarray:
    """Logits as mask, bias and penalties change them: all that comes before the temperature."""
    w = x.copy()
    if how["mask"]:
        words = memory(int(how["mask"]), (-(-len(x) // 32),), np.uint32)
        w[np.unpackbits(words.view(np.uint8), bitorder="little")[: len(x)] == 0] = -np.inf
    if how["bias_len"]:
        bias = memory(int(how["bias"]), (int(how["bias_len"]),), TOKEN_NUMBER)
        np.add.at(w, bias["token"], bias["number"])
    if not how["history_len"]:
        return w
    history = memory(int(how["history"]), (int(how["history_len"]),), np.int32)
    new = history[int(how["prompt_len"]) :]
    known, new = np.unique(history[(history >= 0) & (history < len(x))]), new[(new >= 0) & (new < len(x))]
    repeated = w[known]  # divided if > 0, else multiplied by the repeat penalty (Keskar et al., 2019)
    w[known] = np.where(repeated > 0, repeated / how["repeat_penalty"], repeated * how["repeat_penalty"])
    counts = np.bincount(new, minlength=len(x))
    return w - how["frequency_penalty"] * counts - how["presence_penalty"] * (counts > 0)


def candidates(w: np.ndarray, how: np.void) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that the filters keep and their weights, in the order in which the draw counts them."""
    p = np.exp((w - w.max()) / how["temperature"])
    p[p < how["min_p"]] = 0
    filtered = 0 < how["top_k"] < len(w) or how["top_p"] < 1
    order = np.lexsort((np.arange(len(w)), -w)) if filtered else np.arange(len(w))
    order = order[p[order] > 0]
    if how["top_k"] > 0 and filtered:
        order = order[: how["top_k"]]
    if how["top_p"] < 1:
        mass_before = np.cumsum(p[order]) - p[order]
        keep = mass_before < how["top_p"] * p[order].sum()
        keep[0] = True
        order = order[keep]
    return order, p[order]


def uniform(seed: int, counter: int) -> float:
    """A number in [0, 1) for each (seed, counter), by SplitMix64 (Steele, Lea and Flood, 2014)."""
    return (_splitmix64((_splitmix64(seed) + counter) % 2**64) >> 11) * 2.0**-53


def probe(task: Task) -> None:
    """Measures the machine; leaves no result."""


_REFERENCES: tuple[Callable[[Task], None], ...] = (
    embed, input_rows, angles, gather, rms_norm, linear, logits, gate_up, qkv, rope, append, expand_latent, attend,
    merge, copy, swiglu, add, sample, head_linear, expert_gate_up, expert_down, route, dispatch, scatter, combine
)  # fmt: skip
KERNELS = {one.__name__: one for one in _REFERENCES} | {"probe_read": probe, "probe_matmul": probe}


_LOG2_E = np.float32(1.44269504088896341)
_POWER_OF_2 = (0.07802452, 0.22606716, 0.69583354, 0.99992522)  # of f in [0, 1): softmax.h


def _part(count: int, item: np.void) -> range:
    """An item's part of so many heads."""
    most = -(-count // int(item["head_parts"]))
    return range(count)[int(item["head_part"]) * most :][:most]


def _partials(task: Task, item: np.void, r: int) -> np.ndarray:
    """Partials of row r of an item, [heads, units, value_dim + 2]."""
    units, size = int(item["units"]), task.heads * (task.value_dim + 2)
    begin = (int(item["partial"]) + r * units) * size
    return task.step.partials.reshape(-1)[begin : begin + units * size].reshape(task.heads, units, -1)


def _cached(task: Task, slot: int, kv_head: int, positions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first keys and values of a KV head, f32 [positions, head_dim] and [positions, value_dim], and their weights.

    Values are the product of the two: int8 and scales, else bf16 and ones.
    """
    parts = []
    for block in range(-(-positions // SPLIT)):
        at, count = task.cache_block(slot, block, task.block_stride), min(positions - block * SPLIT, SPLIT)
        parts.append(_cached_block(task, at, kv_head, count))
    keys, values, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    return keys, values, weights


def _cached_block(task: Task, at: int, kv_head: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of the first positions of a block."""
    at_keys, at_values = at + task.keys + kv_head * task.key_stride, at + task.values + kv_head * task.value_stride
    if task.int8:
        keys = layout.read_keys_int8(at_keys, count, task.head_dim)
        return keys, *layout.read_values_int8(at_values, count, task.value_dim)
    keys = layout.read_keys(at_keys, count, task.head_dim)
    values = keys[:, : task.value_dim]
    if not task.values_in_keys:
        values = layout.read_values(at_values, count, task.value_dim)
    return keys, values, np.ones(count, np.float32)


def _query(task: Task, row: int, head: int) -> np.ndarray:
    """bf16-valued float64 [head_dim]."""
    dtype = np.dtype(np.uint16 if task.q_bf16 else np.float32)
    begin = task.q + (row * task.q_stride + head * task.q_head_stride) * dtype.itemsize
    q = np.ndarray((task.head_dim,), dtype, task.section.data, begin)
    if task.turns:
        q = layout.turned(q[None])[0]
    return from_bf16(q if task.q_bf16 else to_bf16(q)).astype(np.float64)


def _attend_leaf(
    q: np.ndarray, keys: np.ndarray, values: np.ndarray, weights: np.ndarray, scale: float, exact: bool
) -> np.ndarray:
    """Numerator, max and sum, f32 [value_dim + 2], of one row and head over its keys of a leaf; of none, sum 0.

    The sum is that of the rounded probabilities, unless it is to be exact.
    """
    if len(keys) == 0:
        return np.array([0] * values.shape[1] + [-1e30, 0], np.float32)
    s = (keys @ q).astype(np.float32)
    e = _exponential((s - s.max()) * np.float32(np.float32(scale) * _LOG2_E))
    p = from_bf16(to_bf16(e * weights)).astype(np.float64)
    top = s.max() * np.float32(scale)
    return np.concatenate((p @ values, [top], [(e if exact else p).sum(dtype=np.float64)])).astype(np.float32)


def _exponential(t: np.ndarray) -> np.ndarray:
    """2^t, float32, by softmax.h's polynomial, so that hardly any of them is rounded to another bf16 number."""
    whole = np.floor(t)
    f, power = t - whole, np.float32(_POWER_OF_2[0])
    for coefficient in _POWER_OF_2[1:]:
        power = power * f + np.float32(coefficient)
    return np.ldexp(power, np.maximum(whole, -200).astype(np.int32))


def _merged(parts: list[np.ndarray]) -> np.ndarray:
    """(o, m, l), f32 [value_dim + 2], of such partials merged in order; one whose l is 0 is passed over."""
    o, m, total = np.zeros(len(parts[0]) - 2, np.float32), np.float32(-1e30), np.float32(0)
    for part in parts:
        if part[-1] == 0:
            continue
        top = max(m, part[-2])
        old, new = np.exp(m - top), np.exp(part[-2] - top)
        o, m, total = o * old + part[:-2] * new, top, total * old + part[-1] * new
    return np.concatenate((o, [m, total])).astype(np.float32)


def _write_head(task: Task, row: int, head: int, spans: list[np.ndarray]) -> None:
    """o / l of partials (o, m, l) merged in order, to columns [head * value_dim, + value_dim) of a step row.

    A sink is merged last: a span with maximum `sink`, sum 1 and value 0.
    """
    n = task.value_dim
    if task.sinks:
        sink = memory(task.sinks, (task.heads,), np.float32)[head]
        spans = [*spans, np.array([0] * n + [sink, 1], np.float32)]
    found = _merged(spans)
    o, total = found[:n], found[n + 1]
    out = task.buffer(task.out, task.out_stride, dtype=np.uint16 if task.out_bf16 else np.float32)[row - task.row]
    out[head * n : (head + 1) * n] = to_bf16(o / total) if task.out_bf16 else o / total
    if head + 1 == task.heads:
        out[task.heads * n :] = 0


def _splitmix64(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)
