"""Where memory ends: what is refused before anything is loaded, and what waits or fails while sequences grow."""

import dataclasses
import json
import subprocess
import sys

import pytest

from ellm import LLM, InputError, SamplingParams
from ellm.checkpoint import aliases
from ellm.machine.limits import Limits
from ellm.serving.ranges import RangePool

PEAK = """
import json, re
from pathlib import Path
from ellm import LLM
with LLM("smollm2") as llm:
    llm.chat([{"role": "user", "content": "Hello"}])
    program, threads = llm.runtime.program, llm.runtime.pool.threads
    planned = program.arena_bytes + threads * program.scratch_bytes
    status = Path("/proc/self/status").read_text()  # rusage has the peak of the parent too
    most = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status)[1])
    print(json.dumps([planned, most]))
"""
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


def test_a_model_takes_its_file_what_is_planned_and_little_more():
    printed = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    planned, most = json.loads(printed)
    file = aliases.path_of("smollm2").stat().st_size
    assert most < file + planned + 300_000_000


def test_no_room_for_the_model_is_bad_input(checkpoint, monkeypatch):
    monkeypatch.setattr("ellm.system.memory.available", lambda: 1000)
    with pytest.raises(InputError, match=r"needs .* of memory in bf1[26].*, 1\.0 kB are available"):
        LLM(checkpoint)


def test_a_context_whose_keys_and_values_do_not_fit_is_refused_if_it_was_asked_for(checkpoint, monkeypatch):
    with LLM(checkpoint, context=600) as fits:
        program = fits.runtime.program
    without = program.weights_bytes + program.arena_bytes + fits.runtime.pool.threads * program.scratch_bytes
    monkeypatch.setattr("ellm.system.memory.available", lambda: without + program.range_bytes)
    LLM(checkpoint, context=600).close()
    monkeypatch.setattr("ellm.system.memory.available", lambda: without + program.range_bytes // 2)
    words = r"context 600: its keys and values need 524\.3 kB of memory, 262\.1 kB are left"
    with pytest.raises(InputError, match=words):
        LLM(checkpoint, context=600)
    LLM(checkpoint).close()  # nobody asked for all of it


def test_limits_are_not_measured_where_that_would_fill_memory(llm, monkeypatch):
    monkeypatch.setattr("ellm.machine.limits.available", lambda: 1000)
    with pytest.raises(InputError, match=r"measuring the limits needs [\d.]+ [MG]B of memory, 1\.0 kB are left"):
        Limits(llm.runtime.pool, llm.runtime.table)


@pytest.fixture
def scarce(llm, monkeypatch):
    """Sets how many positions there is memory for; returns a function that counts the sequences sent back since."""
    engine = llm.engine

    def limit(positions):
        def left():
            return (positions - sum(one.sequence.cached for one in engine.running)) * engine.room.position_bytes

        engine.room.forget()
        monkeypatch.setattr("ellm.serving.room.MARGIN", 0)
        monkeypatch.setattr("ellm.system.memory.available", left)
        monkeypatch.setattr(engine.room, "unchecked", 0.0)
        before = engine.preemptions
        return lambda: engine.preemptions - before

    return limit


def test_sequences_wait_where_memory_for_keys_and_values_is_short(llm, scarce):
    prompts = [[3] * 40, [4] * 30, [5] * 20, [6] * 40]
    params = [dataclasses.replace(GREEDY, max_tokens=length) for length in (60, 30, 40, 20)]
    expected = [(output.token_ids, output.logprobs) for output in llm.generate(prompts, params)]
    sent_back = scarce(110)
    assert [(output.token_ids, output.logprobs) for output in llm.generate(prompts, params)] == expected
    assert sent_back() and len(llm.engine.free_slots) == 64


def test_what_is_cached_is_not_needed_again(llm, monkeypatch):
    (before,) = llm.generate([[3] * 100], GREEDY)
    monkeypatch.setattr("ellm.serving.room.MARGIN", 0)
    monkeypatch.setattr("ellm.system.memory.available", lambda: 40 * llm.engine.room.position_bytes)
    monkeypatch.setattr(llm.engine.room, "unchecked", 0.0)
    (more,) = llm.generate([[3] * 100 + before.token_ids + [4] * 20], GREEDY)
    assert more.metrics.cached_tokens == 111 and more.finish_reason == "length"


def test_what_is_cached_makes_room_before_any_sequence_waits(llm, monkeypatch):
    engine, room = llm.engine, llm.engine.room
    expected = [output.token_ids for output in llm.generate([[3] * 40, [4] * 40], GREEDY)]
    room.forget()
    llm.generate([[5] * 100, [6] * 100], GREEDY)

    def left():
        used = sum(one.sequence.cached for one in engine.running) * room.position_bytes
        return 250 * room.position_bytes - room.statistics.held_bytes - used

    monkeypatch.setattr("ellm.serving.room.MARGIN", 0)
    monkeypatch.setattr("ellm.system.memory.available", left)
    monkeypatch.setattr(room, "unchecked", 0.0)
    before, evicted = engine.preemptions, room.statistics.evicted_blocks
    assert [output.token_ids for output in llm.generate([[3] * 40, [4] * 40], GREEDY)] == expected
    assert engine.preemptions == before and room.statistics.evicted_blocks > evicted


def test_a_sequence_that_is_alone_fails_where_memory_ends(llm, scarce):
    scarce(50)
    with pytest.raises(InputError, match=r"keys and values of 60 tokens after 0 need [\d.]+ kB .*, [\d.]+ kB are left"):
        llm.generate([3] * 60, GREEDY)
    with pytest.raises(InputError, match=r"keys and values of 1 tokens after 50 need 0\.\d kB .*, 0\.0 kB are left"):
        llm.generate([3] * 45, GREEDY)
    with pytest.raises(InputError, match=r"the logits of 45 tokens need .* kB, .* kB are left"):
        llm.logits([3] * 45)
    assert len(llm.engine.free_slots) == 64


def test_no_address_space_for_a_sequence_is_bad_input(llm, monkeypatch):
    expected = llm.generate("the end", GREEDY)[0].token_ids
    ranges = RangePool(1 << 60)
    monkeypatch.setattr(llm.engine.room, "ranges", ranges)
    with pytest.raises(InputError, match="address space"):
        llm.generate("the end", GREEDY)
    monkeypatch.undo()
    assert llm.generate("the end", GREEDY)[0].token_ids == expected
