"""What no window reaches any more is given back, and changes nothing."""

import dataclasses
import time

import numpy as np
import pytest
from tiny import write_checkpoint

from ellm import LLM, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
WINDOW, PROMPT = 64, 1100


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "windows"
    return write_checkpoint(folder, "GptOssForCausalLM", sliding_window=WINDOW, max_position_embeddings=2048)


def caches(llm, mapping):
    """(kind, whether each of its first four blocks holds anything) of each cache."""
    program, blocks = llm.runtime.program, []
    for cache in program.caches:
        size = cache.bytes // program.context_blocks
        at = [int(offset) + cache.offset for offset in program.block_offsets]
        blocks.append((cache.kind, [bool(mapping.array[begin : begin + size].any()) for begin in at[:4]]))
    return blocks


@pytest.fixture
def tokens():
    return np.random.default_rng(0).integers(3, 250, PROMPT).tolist()


def held(llm, mapping):
    """Which of the first four blocks hold anything, by window."""
    llm.engine.room.ranges.settle()
    return {kind.window: blocks for kind, blocks in caches(llm, mapping)}


def running_range(llm, tokens):
    """The range of a sequence whose prompt is computed, and its stream, which goes on step by step and slowly."""
    step = llm.engine.step
    llm.engine.step = lambda undisturbed: (step(), time.sleep(0.005))
    stream = llm.stream(tokens, dataclasses.replace(GREEDY, max_tokens=60))
    next(stream)
    (running,) = llm.engine.running
    return running.sequence.range, stream


def test_blocks_before_a_window_are_given_back_where_nothing_is_cached(checkpoint, tokens):
    with LLM(checkpoint, cache_bytes=0) as llm:
        mapping, stream = running_range(llm, tokens)
        assert held(llm, mapping) == {WINDOW: [False, False, True, False], 0: [True, True, True, False]}
        list(stream)


def test_they_are_cached_until_memory_is_needed(checkpoint, tokens):
    """Without them a prompt that leaves an earlier one in the middle is computed anew; one at its end is not."""
    with LLM(checkpoint) as llm, LLM(checkpoint, cache_bytes=0) as plain:
        room = llm.engine.room
        mapping, stream = running_range(llm, tokens)
        assert held(llm, mapping) == {WINDOW: [True, True, True, False], 0: [True, True, True, False]}
        shorter = [*tokens[:700], 5]
        llm.generate([shorter], GREEDY)
        room.forget()
        assert held(llm, mapping) == {WINDOW: [False, False, True, False], 0: [True, True, True, False]}
        list(stream)
        spared = []
        for prompt in (shorter, [*tokens, *stream.output.token_ids, 3], shorter):
            (cached,), (anew,) = llm.generate([prompt], GREEDY), plain.generate([prompt], GREEDY)
            assert (cached.token_ids, cached.logprobs) == (anew.token_ids, anew.logprobs)
            spared.append(cached.metrics.cached_tokens)
        assert spared == [0, PROMPT + 59, 672], "what was computed again completes what was cached"


def test_admission_asks_only_for_what_a_window_keeps(llm):
    room, program = llm.engine.room, llm.runtime.program
    (windowed,) = {cache.kind for cache in program.caches if cache.kind.window}
    assert windowed.kept_of(100, 512) == 100
    assert windowed.kept_of(10**6, 512) == WINDOW + 512 + 2 * 512
    assert program.cache_bytes(10**6) < 10**6 * program.position_bytes
    assert program.cache_bytes(100) == 100 * program.position_bytes
    assert room.ranges.block_bytes == program.block_bytes
