from random import Random

import numpy as np
import pytest
from block_programs import CONTEXT, ROW_BLOCK, WINDOWS, BlockProgram, random_step
from hypothesis import given
from hypothesis import strategies as st

from ellm.kernels.contract import FOLD, SPLIT
from ellm.scheduler import StepInput, StepTables
from ellm.scheduler.program import Kind


def rows(*sequences: tuple[int, int], **more) -> StepInput:
    """A step of sequences (first position, rows)."""
    positions = np.concatenate([np.arange(begin, begin + count) for begin, count in sequences]).astype(np.int32)
    slots = np.repeat(np.arange(len(sequences)), [count for _, count in sequences])
    return StepInput.of(positions, slots=slots, **more)


@pytest.fixture(scope="module")
def program():
    program = BlockProgram(Random(0)).program
    program.blocks = 3
    return program


@given(random=st.randoms(use_true_random=False), workers=st.integers(1, 64), domains=st.integers(1, 3))
def test_every_row_sees_every_split_of_its_window_once(program, random, workers, domains):
    step = random_step(random, program)
    tables = StepTables(program, workers, domains).fill(step)
    for c, window in enumerate(WINDOWS):
        seen = set()
        for block in range(program.blocks):
            for item in tables.items[c][tables.item_begin[c][block] : tables.item_begin[c][block + 1]]:
                assert item["rows"] <= max(1, FOLD // program.fold_heads)
                for row in range(item["row"], item["row"] + item["rows"]):
                    assert row // ROW_BLOCK == block
                    assert step.slots[row] == item["slot"]
                    assert step.positions[row] == item["position"] + row - item["row"]
                    for split in range(item["split_begin"], item["split_end"]):
                        assert (row, split) not in seen
                        seen.add((row, split))
        for row, position in enumerate(step.positions.tolist()):
            first = max(0, position - window + 1) // SPLIT if window else 0
            assert {split for r, split in seen if r == row} >= set(range(first, position // SPLIT + 1))


@given(random=st.randoms(use_true_random=False), workers=st.integers(1, 64), domains=st.integers(1, 3))
def test_partials_are_written_once_and_merged_once(program, random, workers, domains):
    tables = StepTables(program, workers, domains).fill(random_step(random, program))
    by_block: list[set[int]] = [set() for _ in range(program.blocks)]
    for c in range(len(WINDOWS)):
        for block in range(program.blocks):
            written, merged = set(), set()
            for item in tables.items[c][tables.item_begin[c][block] : tables.item_begin[c][block + 1]]:
                width = item["split_last"] - item["split_first"]
                for row in range(item["rows"]) if item["partial"] >= 0 else []:
                    for split in range(item["split_begin"], item["split_end"]):
                        index = item["partial"] + row * width + split - item["split_first"]
                        assert index not in written
                        written.add(int(index))
            for merge in tables.merges[c][tables.merge_begin[c][block] : tables.merge_begin[c][block + 1]]:
                merged |= {int(merge["partial"]) + i for i in range(merge["rows"] * merge["splits"])}
            assert written == merged
            assert not written or max(written) < program.partials
            by_block[block] |= written
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


def test_context_is_cut_only_if_workers_would_idle(program):
    step = rows((CONTEXT - 1, 1))
    few, many = StepTables(program, 1).fill(step), StepTables(program, 1).fill(rows(*[(CONTEXT - 1, 1)] * 4))
    assert few.counts[Kind.SPLITS].tolist() == [4, 0, 0]
    assert few.counts[Kind.ITEMS, 0] == 4 and few.counts[Kind.MERGES, 0] == 1
    assert many.counts[Kind.ITEMS, 0] == 4 and many.counts[Kind.MERGES, 0] == 0
    assert few.counts[Kind.ITEMS + 2, 0] == 2, "the window of 700 keys lies in two splits"


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
            homes = (items["split_begin"] % domains).tolist()
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
