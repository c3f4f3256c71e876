"""Which blocks of a sequence lie on huge pages, and what is counted of them."""

import dataclasses

import numpy as np
import pytest
from engines import POSITIONS, Sums, give_program

from ellm.serving.batcher import Share
from ellm.serving.room import SMALL_BLOCKS, Room
from ellm.serving.sampling import SamplingParams
from ellm.serving.sequence import Sequence
from ellm.system.memory import HUGE

BLOCK, CONTEXT = 512, 16 * 512


@pytest.fixture
def room(monkeypatch):
    program = give_program(Sums(), dataclasses.replace(POSITIONS, position_bytes=HUGE // BLOCK))
    (cache,) = program.program.caches
    size = 16 * HUGE
    cache = dataclasses.replace(cache, bytes=size)
    found = dataclasses.replace(program.program, context=CONTEXT, range_bytes=size, block_bytes=HUGE, caches=(cache,))
    room = Room([found])
    room.asked = []
    monkeypatch.setattr(room.ranges, "use_huge_pages", lambda of, first, last: room.asked.append((first, last)))
    yield room
    room.ranges.close()


def sequence(room, prompt):
    made = Sequence(np.zeros(prompt, np.int32), SamplingParams(max_tokens=CONTEXT), CONTEXT)
    room.enter(made)
    return made


def run(room, made, begin, end):
    """Prepare rows; returns the positions that are counted for them."""
    shares = [Share(made, begin, end, False)]
    counted = room.step_bytes(shares, room._programs[0]) / room.position_bytes
    room.prepare(shares)
    made.cached = end
    return counted


def test_a_block_that_the_prompt_fills_is_counted_with_its_first_position(room):
    made = sequence(room, 1100)
    assert [run(room, made, *rows) for rows in ((0, 100), (100, 512), (512, 1100))] == [512, 0, 512 + 76]
    assert room.asked == [(0, 1), (1, 2)]
    assert room.prompt_bytes(sequence(room, 1100), 0) == 1100 * room.position_bytes


def test_a_short_sequence_has_small_pages_until_a_block_is_a_part_of_what_it_has(room):
    made = sequence(room, 5)
    assert run(room, made, 0, 5) == 5
    assert [run(room, made, at, at + 1) for at in range(5, SMALL_BLOCKS * BLOCK)] == [1] * (SMALL_BLOCKS * BLOCK - 5)
    assert not room.asked
    assert run(room, made, SMALL_BLOCKS * BLOCK, SMALL_BLOCKS * BLOCK + 1) == BLOCK
    assert room.asked == [(SMALL_BLOCKS, SMALL_BLOCKS + 1)]
    assert run(room, made, SMALL_BLOCKS * BLOCK + 1, SMALL_BLOCKS * BLOCK + 2) == 0


def test_a_block_that_an_earlier_prompt_began_stays_as_it_is(room):
    made = sequence(room, 1100)
    made.first_whole = 1
    assert run(room, made, 300, 1100) == 800
    assert room.asked == [(1, 2)]
