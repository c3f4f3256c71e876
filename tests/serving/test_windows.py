"""What no window reaches any more is given back, and changes nothing."""

import numpy as np
import pytest
from tiny import write_checkpoint

from ellm import SamplingParams

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


def test_blocks_before_a_window_are_given_back(llm):
    tokens = np.random.default_rng(0).integers(3, 250, PROMPT).tolist()
    stream = llm.stream(tokens, GREEDY)
    next(stream)
    (running,) = llm.engine.running
    llm.engine.room.ranges.settle()
    held = dict(caches(llm, running.sequence.range))
    assert {kind.window: blocks for kind, blocks in held.items()} == {
        WINDOW: [False, False, True, False],
        0: [True, True, True, False],
    }
    list(stream)
    cache = llm.prompt_cache()
    whole = llm.stream(tokens, GREEDY, prompt_cache=cache)
    list(whole)
    assert all(blocks == [True, True, True, False] for _, blocks in caches(llm, cache.range))
    assert stream.output.token_ids == whole.output.token_ids
    assert stream.output.logprobs == whole.output.logprobs
    shorter = llm.stream(tokens[:700], GREEDY, prompt_cache=cache)
    list(shorter)
    (anew,) = llm.generate([tokens[:700]], GREEDY)
    assert shorter.output.metrics.cached_tokens == 699
    assert (shorter.output.token_ids, shorter.output.logprobs) == (anew.token_ids, anew.logprobs)
    llm.clear(cache)


def test_admission_asks_only_for_what_a_window_keeps(llm):
    room, program = llm.engine.room, llm.runtime.program
    (windowed,) = {cache.kind for cache in program.caches if cache.kind.window}
    assert windowed.kept_of(100, 512) == 100
    assert windowed.kept_of(10**6, 512) == WINDOW + 512 + 2 * 512
    assert program.cache_bytes(10**6) < 10**6 * program.position_bytes
    assert program.cache_bytes(100) == 100 * program.position_bytes
    assert room.ranges.block_bytes == program.block_bytes
