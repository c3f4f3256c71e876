import heapq
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from block_programs import CONTEXT, ROW_BLOCK, WINDOWS, BlockProgram, random_step
from hypothesis import given, settings
from hypothesis import strategies as st

from ellm.kernels.contract import FOLD, LEAF, SPAN, SPLIT
from ellm.scheduler import StepInput, StepTables
from ellm.scheduler.program import Kind


def rows(*sequences: tuple[int, int], **more) -> StepInput:
    """A step of sequences (first position, rows)."""
    positions = np.concatenate([np.arange(begin, begin + count) for begin, count in sequences]).astype(np.int32)
    slots = np.repeat(np.arange(len(sequences)), [count for _, count in sequences])
    return StepInput.of(positions, slots=slots, **more)


def items_of(tables, c: int, block: int):
    return tables.items[c][tables.item_begin[c][block] : tables.item_begin[c][block + 1]]


@pytest.fixture(scope="module")
def program():
    program = BlockProgram(Random(0)).program
    program.blocks = 3
    return program


@pytest.fixture(scope="module", params=[8, 256, 600])
def long(request):
    """A program with as many query heads a KV head, and a context of several spans."""
    program = BlockProgram(Random(0)).program
    program.blocks, program.fold_heads, program.context = 3, request.param, 3 * SPAN
    return program


@given(random=st.randoms(use_true_random=False), workers=st.integers(1, 200), domains=st.integers(1, 3))
@settings(deadline=None)
def test_every_row_and_head_sees_every_key_of_its_window_once(long, random, workers, domains):
    step = random_step(random, long)
    tables = StepTables(long, workers, domains).fill(step)
    for c, window in enumerate(WINDOWS):
        seen: dict[tuple[int, int], list[range]] = {}
        for block in range(long.blocks):
            for item in items_of(tables, c, block):
                heads = -(-long.fold_heads // int(item["head_parts"]))
                assert item["rows"] * heads <= FOLD
                assert 0 <= item["head_part"] < item["head_parts"]
                assert not item["folded"] or item["key_begin"] // SPAN == (item["key_end"] - 1) // SPAN
                for row in range(item["row"], item["row"] + item["rows"]):
                    assert row // ROW_BLOCK == block
                    assert step.slots[row] == item["slot"]
                    assert step.positions[row] == item["position"] + row - item["row"]
                    found = seen.setdefault((row, int(item["head_part"])), [])
                    found.append(range(item["key_begin"], item["key_end"]))
        parts = {part for _, part in seen}
        for row, position in enumerate(step.positions.tolist()):
            first = max(0, position - window + 1) if window else 0
            for part in parts:
                keys = sorted((one.start, one.stop) for one in seen[row, part])
                assert all(before[1] == after[0] for before, after in pairwise(keys))
                assert keys[0][0] <= first and position < keys[-1][1] <= long.context
                assert all(key % (LEAF if key < SPAN else SPLIT) == 0 for one in keys for key in one)


@given(random=st.randoms(use_true_random=False), workers=st.integers(1, 200), domains=st.integers(1, 3))
@settings(deadline=None)
def test_partials_are_written_once_and_merged_once(long, random, workers, domains):
    tables = StepTables(long, workers, domains).fill(random_step(random, long))
    by_block: list[set[int]] = [set() for _ in range(long.blocks)]
    for c in range(len(WINDOWS)):
        for block in range(long.blocks):
            written, merged = set(), set()
            for item in items_of(tables, c, block):
                for row in range(item["rows"]) if item["partial"] >= 0 else []:
                    index = int(item["partial"] + row * item["units"] + item["unit"])
                    assert (index, item["head_part"]) not in written and item["unit"] < item["units"]
                    written.add((index, int(item["head_part"])))
            parts = {part for _, part in written}
            for merge in tables.merges[c][tables.merge_begin[c][block] : tables.merge_begin[c][block + 1]]:
                indices = {int(merge["partial"]) + i for i in range(merge["rows"] * merge["units"])}
                assert (merge["head_part"] == 0) == merged.isdisjoint(indices)
                merged |= indices
            assert written == {(index, part) for index in merged for part in parts}
            assert not merged or max(merged) < long.partials
            by_block[block] |= merged
    assert sum(map(len, by_block)) == len(set().union(*by_block)), "two blocks share a partial"


def test_counts(program):
    logits = {"logit_row": np.arange(3, 21, dtype=np.int32), "logits": np.zeros((18, 1), np.float32)}
    counts = StepTables(program, 1).fill(rows((0, 20), (100, 8), **logits)).counts
    assert counts[Kind.ROWS].tolist() == [1, 1, 0]
    assert counts[Kind.LOGITS].tolist() == [1, 1, 0]
    assert counts[Kind.SAMPLE].tolist() == [0, 0, 0]
    assert counts[Kind.SPLITS].tolist() == [1, 0, 0]
    assert counts[Kind.ITEMS].tolist() == [2, 2, 0]  # 8 rows an item: 8 + 8 | 4, then 8 of the other sequence
    assert counts[Kind.MERGES].tolist() == [0, 0, 0]


def cut(program, workers: int, *sequences: tuple[int, int]) -> tuple[int, int, int]:
    """Items and merge items without a window, and the keys of the longest item."""
    tables = StepTables(program, workers).fill(rows(*sequences))
    (items, _), (merges, _) = tables.items, tables.merges
    return len(items), len(merges), int((items["key_end"] - items["key_begin"]).max())


def test_context_is_cut_only_if_workers_would_idle():
    program = BlockProgram(Random(0)).program
    program.blocks, program.context, program.partials = 3, 32 * SPAN, 1 << 12
    assert cut(program, 1, *[(SPAN - 1, 1)] * 4) == (4, 0, SPAN)
    assert cut(program, 8, (LEAF - 1, 1)) == (1, 0, LEAF), "a leaf is not cut"
    assert cut(program, 8, (SPAN - 1, 1)) == (SPAN // LEAF, 8, LEAF), "a merge for each head"
    assert cut(program, 64, (4 * SPAN - 1, 1)) == (SPAN // LEAF + 3 * SPAN // SPLIT, 8, SPLIT)
    assert cut(program, 4, *[(32 * SPAN - 1, 1)] * 5) == (5 * 32, 5 * 2, SPAN), "as 5 whole ones would take 2 rounds"
    assert cut(program, 4, (32 * SPAN - 1, 1), *[(SPAN - 1, 1)] * 4) == (32 + 4, 8, SPAN), "the long one alone"
    program.partials = SPAN // LEAF - 1
    assert cut(program, 8, (SPAN - 1, 1)) == (1, 0, SPAN), "no room"


def test_heads_are_dealt_where_keys_are_few():
    program = BlockProgram(Random(0)).program
    program.blocks, program.context, program.partials, program.fold_heads = 3, 32 * SPAN, 1 << 12, 128
    assert cut(program, 1, (LEAF - 1, 1)) == (1, 0, LEAF)
    assert cut(program, 64, (LEAF - 1, 1)) == (8, 0, LEAF), "16 heads a task"
    assert cut(program, 64, (SPAN - 1, 1)) == (2 * 32, 128, LEAF), "as many tasks as workers"
    assert cut(program, 4, (SPAN - 1, 1)) == (SPAN // LEAF, 8, LEAF), "keys are read once"


def test_neighbouring_lengths_and_batches_take_as_long():
    """What the last worker gets never grows by more than half for one more sequence, or a tenth more keys."""
    program = BlockProgram(Random(0)).program
    program.blocks, program.context, program.partials, program.fold_heads = 3, 32 * SPAN, 1 << 12, 8

    def longest(count: int, keys: int, workers: int = 24) -> int:
        """Keys that the last worker gets, if each takes the next item when it is done."""
        items = StepTables(program, workers).fill(rows(*[(keys - 1, 1)] * count)).items[0]
        done = [0] * workers
        for size in (items["key_end"] - items["key_begin"]).tolist():
            heapq.heapreplace(done, done[0] + size)
        return max(done)

    for count in range(1, 40):
        assert longest(count + 1, 5000) <= 1.5 * longest(count, 5000) + SPLIT
    for keys in range(1000, 100000, 1000):
        assert longest(3, keys * 11 // 10) <= 1.5 * longest(3, keys) + SPLIT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": [0, 0, 1]}, "tokens are 0 to 1, allowed are 0 to 0"),
        ({"tokens": [0] * 49}, "1 to 48 rows, not 49"),
        ({"tokens": []}, "1 to 48 rows, not 0"),
        ({"positions": [0, 1]}, "positions has shape"),
        ({"positions": [0, 1, CONTEXT]}, "positions are 0 to 2048"),
        ({"positions": [0, 2, 3]}, "must be consecutive"),
        ({"slots": [0, 1, 0]}, "slots are 0 to 1"),
        ({"logit_row": [1, 1]}, "must ascend"),
        ({"logit_row": [3]}, "logit_row are 3"),
        ({"logit_row": [0]}, "logits is float32"),
        ({"sampling": np.zeros(0)}, "sampling is float64"),
    ],
)
def test_rows_that_do_not_fit(program, change, message):
    step = rows((0, 3))
    for name, value in change.items():
        setattr(step, name, value if isinstance(value, np.ndarray) else np.array(value, np.int32))
    with pytest.raises(ValueError, match=message):
        StepTables(program, 1).fill(step)


def test_a_group_too_large(program):
    huge = BlockProgram(Random(0)).program
    huge.groups["tiles"][0] = 1 << 20
    with pytest.raises(ValueError, match="1048576 tasks"):
        StepTables(huge, 1).fill(rows((0, 1)))


@given(random=st.randoms(use_true_random=False), workers=st.integers(1, 64), domains=st.integers(2, 4))
def test_items_of_a_domain_follow_each_other(program, random, workers, domains):
    """The same items as without domains, those whose blocks lie in the first one first."""
    step = random_step(random, program)
    tables, plain = StepTables(program, workers, domains).fill(step), StepTables(program, workers).fill(step)
    for c in range(len(WINDOWS)):
        np.testing.assert_array_equal(tables.merges[c], plain.merges[c])
        for block in range(program.blocks):
            begin, end = tables.item_begin[c][block : block + 2]
            items = tables.items[c][begin:end]
            homes = (items["key_begin"] // SPLIT % domains).tolist()
            assert homes == sorted(homes)
            assert sorted(items.tolist()) == sorted(plain.items[c][begin:end].tolist())


def test_blocks_lie_in_ranges_unless_a_table_says_otherwise(program):
    tables = StepTables(program, 1)
    ranges = np.array([1 << 20, 1 << 30], np.uint64)
    offsets = program.block_offsets
    np.testing.assert_array_equal(tables.fill(rows((0, 1), ranges=ranges)).blocks, ranges[:, None] + offsets)
    ranges[1] = 1 << 40
    np.testing.assert_array_equal(tables.fill(rows((0, 1), ranges=ranges)).blocks, ranges[:, None] + offsets)
    shared = ranges[:, None] + offsets
    shared[1, 0] = shared[0, 0]
    assert tables.fill(rows((0, 1), ranges=ranges, blocks=shared)).blocks is shared
    np.testing.assert_array_equal(tables.fill(rows((0, 1), ranges=ranges)).blocks, ranges[:, None] + offsets)
    with pytest.raises(ValueError, match=r"blocks is uint64 \(1, \d+\), expected C-contiguous uint64 \(2, \d+\)"):
        tables.fill(rows((0, 1), ranges=ranges, blocks=shared[:1]))
