"""attend and merge against their references.

Bounds: a probability on a tie may round to bf16 either way, one ulp (2^-7) apart, and so may the output. With
y = sum p v / sum p that is |error| <= 2^-7 (sum p |v| / sum p + |y|); scores and sums in f32 add far less.
"""

import copy
from dataclasses import dataclass

import numpy as np
import pytest
from harness import Case, Memory, bf16_ulps, each_isa, for_cases, pack_keys, pack_values, up
from hypothesis import strategies as st

from ellm.kernels import contract, layout
from ellm.kernels.contract import FOLD, LEAF, SPAN, SPLIT
from ellm.kernels.layout import from_bf16, to_bf16
from ellm.kernels.reference import leaves


@dataclass
class Shape:
    """Heads of an attention. With values_in_keys the values are the first value_dim dims of the keys."""

    kv_heads: int
    group: int
    head_dim: int
    value_dim: int
    window: int = 0
    q_bf16: bool = True
    values_in_keys: bool = False
    sinks: bool = False
    int8: bool = False

    @property
    def heads(self) -> int:
        return self.kv_heads * self.group

    @property
    def sink(self) -> np.ndarray | None:
        """A logit for each head, some above all scores and some below, f32 [heads]."""
        if not self.sinks:
            return None
        return np.random.default_rng(self.heads).uniform(-30, 30, self.heads).astype(np.float32)


class Sequence:
    """Keys and values of one sequence, [kv_heads, positions, head_dim or value_dim], and its blocks.

    These lie in memory in any order. Past `positions` they hold stale numbers, in the tiles that are in use, and NaN
    everywhere else.
    """

    def __init__(self, shape: Shape, positions: int, seed: int):
        random = np.random.default_rng(seed)
        size = (shape.kv_heads, up(positions, 32), shape.head_dim + shape.value_dim)
        both = from_bf16(to_bf16(random.standard_normal(size).astype(np.float32)))
        self.keys, self.values = both[:, :, : shape.head_dim], both[:, :, shape.head_dim :]
        if shape.values_in_keys:
            self.values = self.keys[:, :, : shape.value_dim]
        self.key_stride = 2 * SPLIT * up(shape.head_dim, 32) + 64
        self.value_stride = 2 * SPLIT * up(shape.value_dim, 16) + 128
        self.at_values = 64 + shape.kv_heads * self.key_stride
        self.block_bytes = self.at_values + shape.kv_heads * self.value_stride + 64
        self.offsets = self.block_bytes * random.permutation(-(-positions // SPLIT))
        self.memory = Memory(self.block_bytes * len(self.offsets))
        for j in range(shape.kv_heads):
            if shape.int8:
                self.put_int8(shape, j)
                continue
            self.put(64 + j * self.key_stride, self.keys[j], pack_keys)
            if not shape.values_in_keys:
                self.put_values(j)

    def put_values(self, j: int) -> None:
        self.put(self.at_values + j * self.value_stride, self.values[j], pack_values)

    def put(self, offset: int, x: np.ndarray, pack) -> None:
        for i, block in enumerate(self.offsets):
            tiles = pack(x[i * SPLIT : (i + 1) * SPLIT])
            self.memory.view(tiles.shape, np.uint16, int(block) + offset)[:] = tiles

    def put_int8(self, shape: Shape, j: int) -> None:
        """Keys and values of a KV head in int8; keys become what is kept, turned, and values what their codes mean."""
        for i, block in enumerate(self.offsets.tolist()):
            part = slice(i * SPLIT, (i + 1) * SPLIT)
            count = len(self.keys[j, part])
            keys = self.memory.address + block + 64 + j * self.key_stride
            values = self.memory.address + block + self.at_values + j * self.value_stride
            layout.write_keys_int8(keys, np.arange(count), self.keys[j, part])
            layout.write_values_int8(values, np.arange(count), self.values[j, part])
            self.keys[j, part] = layout.read_keys_int8(keys, count, shape.head_dim)
            codes, scales = layout.read_values_int8(values, count, shape.value_dim)
            self.values[j, part] = codes * scales[:, None]

    def in_range(self) -> "Sequence":
        """The same with its blocks in order."""
        same = copy.copy(self)
        same.offsets = np.sort(self.offsets)
        same.memory = Memory(self.memory.bytes.nbytes)
        for to, block in zip(same.offsets.tolist(), self.offsets.tolist(), strict=True):
            same.memory.bytes[to : to + self.block_bytes] = self.memory.bytes[block : block + self.block_bytes]
        return same


def _section(shape: Shape) -> int:
    return 1 << (24 if shape.heads > 100 else 22 if shape.heads > 20 else 19)


def make(
    shape: Shape, sequences: list[Sequence], queries: list[np.ndarray], items: list[tuple], partials: int = 0
) -> Case:
    """Rows queries[i] [rows, heads, head_dim] of each sequence in one block, attended to by items of ATTEND_ITEM."""
    q = np.concatenate(queries)
    case = Case("attend", len(q), block=1, blocks=2, section=_section(shape))
    n, value_dim, heads = shape.head_dim, shape.value_dim, shape.heads
    width = up(n, 32) if shape.q_bf16 else n
    if shape.q_bf16 and shape.int8:
        q = layout.turned(q.reshape(-1, n)).reshape(q.shape)
    if shape.q_bf16:  # as qkv leaves it: each head padded
        padded = np.zeros((len(q), heads, width), np.uint16)
        padded[:, :, :n] = to_bf16(q)
        q = padded
    case.place("q", q)
    one = sequences[0]
    case.args |= {"q_bf16": int(shape.q_bf16), "q_stride": heads * width, "q_head_stride": width, "heads": heads}
    case.args |= {
        "kv_heads": shape.kv_heads,
        "head_dim": n,
        "value_dim": value_dim,
        "values_in_keys": int(shape.values_in_keys),
        "int8": int(shape.int8),
        "turns": int(shape.int8 and not shape.q_bf16),
        "scale": n**-0.5,
        "window": shape.window,
        "window_class": 1,
    }
    case.args |= {"keys": 64, "key_stride": one.key_stride, "block_stride": 0}
    case.args |= {"values": one.at_values, "value_stride": one.value_stride}
    case.constant("sinks", shape.sink)
    case.args |= {"out_bf16": 1, "out_stride": up(heads * value_dim, 32)}
    case.output("out", (case.args["out_stride"],), np.uint16)
    case.memories += [sequence.memory for sequence in sequences]
    case.step.ranges = np.array([sequence.memory.address for sequence in sequences], np.uint64)
    case.step.context_blocks = max(len(sequence.offsets) for sequence in sequences)
    case.step.blocks = np.zeros((len(sequences), case.step.context_blocks), np.uint64)
    for row, sequence in zip(case.step.blocks, sequences, strict=True):
        row[: len(sequence.offsets)] = sequence.memory.address + sequence.offsets.astype(np.uint64)
    case.step.partials = case.written("partials", (partials, heads, value_dim + 2), np.float32)
    none = np.zeros(0, contract.ATTEND_ITEM)
    assert all(rows * -(-shape.group // parts) <= FOLD for _, rows, *_, parts in items)
    case.step.items = [none, np.array([none_before, *items], contract.ATTEND_ITEM)]
    case.step.item_begin = [np.zeros(3, np.int32), np.array([0, 1, 1 + len(items)], np.int32)]
    return case


none_before = (0,) * 12  # stands for an item of block 0


def seen(shape: Shape, position: int, rows: int) -> tuple[int, int]:
    """The leaves that rows see: where the first begins and the last ends."""
    first = max(0, position - shape.window + 1) if shape.window else 0
    bounds = leaves(0, SPAN) + leaves(SPAN, 1 << 14)
    begin = max(begin for begin, _ in bounds if begin <= first)
    return begin, min(end for _, end in bounds if end >= position + rows)


def heads_dealt(shape: Shape, items: list[tuple], parts: int) -> list[tuple]:
    """The items, each for as many parts of the heads; at least as many as a fold needs."""
    parts = max(parts, -(-shape.group // FOLD))
    return [(*item, part, parts) for item in items for part in range(parts)]


def whole_items(shape: Shape, begins: list[tuple[int, int]], parts: int = 1) -> list[tuple]:
    """Items for each (position, rows), all their leaves in one task."""
    items, row = [], 64
    for slot, (position, rows) in enumerate(begins):
        items.append((row, rows, slot, position, *seen(shape, position, rows), -1, 0, 0, 0))
        row += rows
    return heads_dealt(shape, items, parts)


def cut_items(
    shape: Shape, begins: list[tuple[int, int]], by_span: bool, parts: int = 1
) -> tuple[list[tuple], list[tuple], int]:
    """Items for each leaf, or span, latest first, the merge items, and how many partials they use."""
    items, merges, partial, row = [], [], 3, 64
    for slot, (position, rows) in enumerate(begins):
        begin, end = seen(shape, position, rows)
        units = leaves(begin, end)
        spans = [[unit for unit in units if unit[0] // SPAN == span] for span in range(end // SPAN + 1)]
        spans = [span for span in spans if span]
        if by_span:
            units = [(span[0][0], span[-1][1]) for span in spans]
        shared = (partial, len(units))
        made = [(row, rows, slot, position, *unit, *shared, i, int(by_span)) for i, unit in enumerate(units)]
        items += made[::-1]
        sizes = (1, 1) if by_span else (len(spans[0]), SPAN // SPLIT)
        merges += [(row, rows, *shared, *sizes, part, parts) for part in range(parts)]
        partial += rows * len(units)
        row += rows
    return heads_dealt(shape, items, parts), merges, partial


def make_merge(shape: Shape, partials: np.ndarray, merges: list[tuple], rows: int) -> Case:
    case = Case("merge", rows, block=1, blocks=2, section=_section(shape))
    n, heads = shape.value_dim, shape.heads
    case.args |= {"heads": heads, "value_dim": n, "window_class": 1}
    case.constant("sinks", shape.sink)
    case.args |= {"out_bf16": 1, "out_stride": up(heads * n, 32)}
    case.output("out", (case.args["out_stride"],), np.uint16)
    case.step.partials = case.memory(partials).view(partials.shape, np.float32)
    case.step.merges = [np.zeros(0, contract.MERGE_ITEM), np.array([(0,) * 8, *merges], contract.MERGE_ITEM)]
    case.step.merge_begin = [np.zeros(3, np.int32), np.array([0, 1, 1 + len(merges)], np.int32)]
    return case


def exact(shape: Shape, sequence: Sequence, q: np.ndarray, position: int) -> tuple[np.ndarray, np.ndarray]:
    """softmax(q K^T) V in float64 for one row, [heads, value_dim], and sum p |v| / sum p.

    A sink is one more column of the scores, whose value is 0.
    """
    low = max(0, position - shape.window + 1) if shape.window else 0
    q = layout.turned(q) if shape.int8 else q
    q = from_bf16(to_bf16(q)).astype(np.float64).reshape(shape.kv_heads, shape.group, -1)
    keys, values = sequence.keys[:, low : position + 1], sequence.values[:, low : position + 1]
    s = np.einsum("jgd,jsd->jgs", q, keys) * shape.head_dim**-0.5
    sink = np.full(shape.heads, -np.inf) if shape.sink is None else shape.sink.astype(np.float64)
    s = np.concatenate((s, sink.reshape(shape.kv_heads, shape.group, 1)), -1)
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    y, spread = (np.einsum("jgs,jsd->jgd", p[:, :, :-1], v) for v in (values, np.abs(values)))
    return y.reshape(shape.heads, -1), spread.reshape(shape.heads, -1)


shapes = st.builds(
    Shape,
    kv_heads=st.integers(1, 2),
    group=st.sampled_from([1, 2, 3, 7]),
    head_dim=st.sampled_from([40, 64, 80]),
    value_dim=st.sampled_from([8, 24, 40]),
    window=st.sampled_from([0, 0, 1, 30, 500, 700]),
    q_bf16=st.booleans(),
    values_in_keys=st.booleans(),
    sinks=st.booleans(),
)
shapes |= st.builds(
    Shape,
    kv_heads=st.integers(1, 2),
    group=st.sampled_from([1, 3, 7]),
    head_dim=st.sampled_from([32, 64, 128]),
    value_dim=st.sampled_from([24, 32, 64]),
    window=st.sampled_from([0, 0, 30, 700]),
    q_bf16=st.booleans(),
    sinks=st.booleans(),
    int8=st.just(True),
)
positions = st.sampled_from([0, 1, 15, 31, 120, 127, 128, 200, 505, 511, 512, 600, 1024, 1100, 4085, 4600])
begins = st.lists(st.tuples(positions, st.integers(1, 20)), min_size=1, max_size=3)


def drawn_case(shape: Shape, begins: list[tuple[int, int]], seed: int):
    begins = [(position, min(rows, max(1, FOLD // shape.group))) for position, rows in begins]
    longest = max(position + rows for position, rows in begins)
    sequences = [Sequence(shape, longest, seed + i) for i in range(len(begins))]
    random = np.random.default_rng(seed)
    queries = [random.standard_normal((r, shape.heads, shape.head_dim)).astype(np.float32) * 2 for _, r in begins]
    return begins, sequences, queries


@for_cases(40, shape=shapes, begins=begins, parts=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_attend_and_merge(isa, shape, begins, parts, seed):
    begins, sequences, queries = drawn_case(shape, begins, seed)
    direct = make(shape, sequences, queries, whole_items(shape, begins)).run(isa)["out"]

    for by_span in (False, True):
        items, merges, count = cut_items(shape, begins, by_span, parts)
        cut = make(shape, sequences, queries, items, count).run(isa)
        merged = make_merge(shape, cut["partials"], merges, len(direct)).run(isa)["out"]
        np.testing.assert_array_equal(merged, direct)  # however context and heads are cut, the same bits
    dealt = make(shape, sequences, queries, whole_items(shape, begins, parts)).run(isa)["out"]
    np.testing.assert_array_equal(dealt, direct)

    more = [(*item[:4], 0, *item[5:]) for item in whole_items(shape, begins)]
    np.testing.assert_array_equal(
        make(shape, sequences, queries, more).run(isa)["out"], direct
    )  # unseen leaves add nothing

    reference = make(shape, sequences, queries, whole_items(shape, begins)).run(None)["out"]
    assert (direct[:, shape.heads * shape.value_dim :] == 0).all()
    rows = [(i, r) for i, (_, rows) in enumerate(begins) for r in range(rows)]
    for at, (i, r) in enumerate(rows):
        for out in (direct, reference):
            assert within_bound(shape, sequences[i], queries[i][r], begins[i][0] + r, out[at])
    for at in {0, len(rows) - 1, seed % len(rows)}:
        i, r = rows[at]
        item = whole_items(shape, [(begins[i][0] + r, 1)])
        alone = make(shape, sequences[i : i + 1], [queries[i][r : r + 1]], item).run(isa)["out"]
        np.testing.assert_array_equal(alone[0], direct[at])  # whatever else is in the item, the same bits


@for_cases(15, shape=shapes, begins=begins, by_span=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_partials(isa, shape, begins, by_span, seed):
    """Numerator, max and sum of every leaf or span, and only of the items' partials."""
    begins, sequences, queries = drawn_case(shape, begins, seed)
    items, merges, count = cut_items(shape, begins, by_span)
    n = shape.value_dim
    native, reference = (make(shape, sequences, queries, items, count).run(which)["partials"] for which in (isa, None))
    used = np.zeros(count, bool)
    for _, rows, partial, units, *_ in merges:
        used[partial : partial + rows * units] = True
    assert np.isnan(native[~used]).all()
    np.testing.assert_allclose(native[used][:, :, n + 1], reference[used][:, :, n + 1], rtol=2.0**-8)
    seen = reference[:, :, n + 1] > 0  # numbers of a row and split without a key mean nothing
    np.testing.assert_allclose(native[seen][:, n], reference[seen][:, n], rtol=1e-5, atol=1e-5)
    spread = 2.0**-7 * 4.5 * reference[seen][:, n + 1 :]  # values are below 4.5 here
    assert (np.abs(native[seen][:, :n] - reference[seen][:, :n]) <= spread).all()
    merged = make_merge(shape, native, merges, sum(rows for _, rows in begins))
    assert bf16_ulps(merged.run(isa)["out"], merged.run(None)["out"]).max() <= 1


def within_bound(shape: Shape, sequence: Sequence, q: np.ndarray, position: int, out: np.ndarray) -> bool:
    """Whether a row of `out` is the exact result up to the roundings named above."""
    y, spread = exact(shape, sequence, q, position)
    result = from_bf16(out[: y.size]).reshape(y.shape)
    return bool((np.abs(result - y) <= 2.0**-7 * (spread + np.abs(y)) + 1e-6).all())


@each_isa
def test_partials_are_merged_in_order(isa):
    """Numerators 1e8, -1e8 and 1 add up to 1 in this order alone; a partial with sum 0 is passed over, NaN and all."""
    shape = Shape(kv_heads=1, group=1, head_dim=24, value_dim=24)
    partials = np.zeros((4, 1, 26), np.float32)
    partials[:, 0, :24] = np.array([1e8, np.nan, -1e8, 1])[:, None]
    partials[:, 0, 25] = [1, 0, 1, 1]
    for sizes, total in (((4, 8), 1), ((1, 1), 1), ((2, 8), 0)):  # the last merges -1e8 and 1 first
        out = make_merge(shape, partials, [(64, 1, 0, 4, *sizes, 0, 1)], 1).run(isa)["out"]
        assert (from_bf16(out[0, :24]) == from_bf16(to_bf16(np.float32([total / 3])))).all()


@each_isa
@pytest.mark.parametrize("position", [SPAN - 1, SPAN, 3 * SPAN - 7])
def test_spans(isa, position):
    """Leaves of both sizes and several spans, of rows that see one more than others do."""
    shape = Shape(kv_heads=2, group=2, head_dim=32, value_dim=24)
    begins, sequences, queries = drawn_case(shape, [(position, 12)], seed=5)
    direct = make(shape, sequences, queries, whole_items(shape, begins)).run(isa)["out"]
    for by_span in (False, True):
        items, merges, count = cut_items(shape, begins, by_span)
        partials = make(shape, sequences, queries, items, count).run(isa)["partials"]
        np.testing.assert_array_equal(make_merge(shape, partials, merges, 12).run(isa)["out"], direct)
    for r in range(12):
        assert within_bound(shape, sequences[0], queries[0][r], position + r, direct[r])
    reference = make(shape, sequences, queries, whole_items(shape, begins)).run(None)["out"]
    assert bf16_ulps(direct, reference).max() <= 8
    assert leaves(0, SPAN)[:2] == [(0, LEAF), (LEAF, 2 * LEAF)] and leaves(SPAN, SPAN + SPLIT) == [(SPAN, SPAN + SPLIT)]


@each_isa
@pytest.mark.parametrize("group", [FOLD, FOLD + 7, 2 * FOLD, 2 * FOLD + 1])
def test_more_heads_than_a_fold(isa, group):
    """Heads of one KV head in more than one task, and values in keys that are wider than what a task makes at once."""
    shape = Shape(1, group, head_dim=90, value_dim=72, values_in_keys=True, sinks=True)
    begins, sequences, queries = drawn_case(shape, [(600, 1)], seed=1)
    direct = make(shape, sequences, queries, whole_items(shape, begins))
    assert direct.tasks == -(-group // FOLD)
    out = direct.run(isa)["out"]
    assert within_bound(shape, sequences[0], queries[0][0], 600, out[0])
    assert within_bound(shape, sequences[0], queries[0][0], 600, direct.run(None)["out"][0])

    items, merges, count = cut_items(shape, begins, by_span=False, parts=5)
    partials = make(shape, sequences, queries, items, count).run(isa)["partials"]
    np.testing.assert_array_equal(make_merge(shape, partials, merges, 1).run(isa)["out"], out)

    few = Shape(1, 3, head_dim=90, value_dim=72, values_in_keys=True)  # other heads in the task change nothing
    alone = make(few, sequences, [queries[0][:, 60:63]], whole_items(few, begins))
    alone.constant("sinks", shape.sink[60:63])
    np.testing.assert_array_equal(alone.run(isa)["out"][0, : 3 * 72], out[0, 60 * 72 : 63 * 72])


@each_isa
def test_more_parts_than_heads(isa):
    """A part without heads does nothing: operators of other head counts share the items."""
    shape = Shape(kv_heads=2, group=3, head_dim=40, value_dim=24)
    begins, sequences, queries = drawn_case(shape, [(200, 2)], seed=6)
    out = make(shape, sequences, queries, whole_items(shape, begins)).run(isa)["out"]
    np.testing.assert_array_equal(make(shape, sequences, queries, whole_items(shape, begins, 5)).run(isa)["out"], out)
    items, merges, count = cut_items(shape, begins, by_span=False, parts=8)
    partials = make(shape, sequences, queries, items, count).run(isa)["partials"]
    np.testing.assert_array_equal(make_merge(shape, partials, merges, 2).run(isa)["out"], out)


@each_isa
def test_values_in_keys_are_the_same_as_stored_apart(isa):
    shape = Shape(kv_heads=2, group=3, head_dim=80, value_dim=56, window=700, values_in_keys=True)
    begins, sequences, queries = drawn_case(shape, [(1090, 11)], seed=3)
    in_keys = make(shape, sequences, queries, whole_items(shape, begins)).run(isa)["out"]
    apart = Shape(kv_heads=2, group=3, head_dim=80, value_dim=56, window=700)
    for j in range(2):
        sequences[0].put_values(j)
    np.testing.assert_array_equal(in_keys, make(apart, sequences, queries, whole_items(apart, begins)).run(isa)["out"])


@each_isa
def test_blocks_in_a_range_give_the_same_as_those_of_a_table(isa):
    shape = Shape(kv_heads=2, group=3, head_dim=80, value_dim=56)
    begins, sequences, queries = drawn_case(shape, [(1090, 11), (600, 3)], seed=4)
    scattered = make(shape, sequences, queries, whole_items(shape, begins)).run(isa)["out"]
    in_range = make(shape, [one.in_range() for one in sequences], queries, whole_items(shape, begins))
    in_range.args["block_stride"] = sequences[0].block_bytes
    in_range.step.blocks[:] = 0
    np.testing.assert_array_equal(in_range.run(isa)["out"], scattered)


@each_isa
@pytest.mark.parametrize("value_dim", [8, 48, 128])
@pytest.mark.parametrize("int8", [False, True], ids=["bf16", "int8"])
def test_few_rows_have_the_bits_of_many(isa, value_dim, int8):
    """Of few rows tiles are read in another order, and codes expanded where they are used, of more a leaf at a time."""
    shape = Shape(kv_heads=1, group=1, head_dim=64, value_dim=value_dim, window=700, int8=int8)
    begins, sequences, queries = drawn_case(shape, [(1100, 20)], seed=8)
    many = make(shape, sequences, queries, whole_items(shape, begins)).run(isa)["out"]
    for rows in range(1, 20):
        few = make(shape, sequences, [queries[0][:rows]], whole_items(shape, [(1100, rows)])).run(isa)["out"]
        np.testing.assert_array_equal(few, many[:rows])


@each_isa
@pytest.mark.parametrize("rows", [1, 20])
def test_every_code(isa, rows):
    """The first position sees its own value alone, and each code of int8 is exact in bf16."""
    shape = Shape(kv_heads=2, group=1, head_dim=32, value_dim=128, int8=True)
    begins, sequences, queries = drawn_case(shape, [(0, rows)], seed=9)
    sequences[0].values[:, 0] = [np.arange(-127, 1), np.arange(128)]
    for j in range(2):
        sequences[0].put_int8(shape, j)
    out = make(shape, sequences, queries, whole_items(shape, begins)).run(isa)["out"]
    np.testing.assert_array_equal(from_bf16(out[0]).reshape(2, 128), sequences[0].values[:, 0])
    np.testing.assert_array_equal(sequences[0].values[:, 0], [np.arange(-127, 1), np.arange(128)])


@each_isa
@pytest.mark.parametrize("large", [False, True])
def test_scores_of_any_size(isa, large):
    """A score far above the others takes all, and equal scores share alike, without overflow."""
    shape = Shape(kv_heads=1, group=2, head_dim=24, value_dim=24, q_bf16=False)
    begins, sequences, queries = drawn_case(shape, [(700, 1)], seed=2)
    queries[0][:] = 1e4 * sequences[0].keys[0, 600] if large else 0
    out = make(shape, sequences, queries, whole_items(shape, begins)).run(isa)["out"]
    values = sequences[0].values[0]
    s = sequences[0].keys[0, :701].astype(np.float64) @ from_bf16(to_bf16(queries[0][0, 0]))
    expected = values[np.argmax(s)] if large else values[:701].mean(0)
    result = from_bf16(out[0, : 2 * 24]).reshape(2, 24)
    np.testing.assert_allclose(result, np.stack([expected] * 2), rtol=2.0**-7, atol=1e-4)


@each_isa
def test_a_sink_of_any_size(isa):
    """A sink above every score takes all of the weight, far below it takes none, and either way nothing overflows."""
    shape = Shape(kv_heads=1, group=3, head_dim=24, value_dim=24, sinks=True)
    begins, sequences, queries = drawn_case(shape, [(700, 1)], seed=4)
    case = make(shape, sequences, queries, whole_items(shape, begins))
    case.constant("sinks", np.array([1e4, -1e4, -np.inf], np.float32))
    out = from_bf16(case.run(isa)["out"][0, : 3 * 24]).reshape(3, 24)
    without = Shape(kv_heads=1, group=3, head_dim=24, value_dim=24)
    plain = from_bf16(make(without, sequences, queries, whole_items(without, begins)).run(isa)["out"][0, : 3 * 24])
    assert (out[0] == 0).all()
    np.testing.assert_array_equal(out[1:], plain.reshape(3, 24)[1:])
